//! One table of all kernels beside the machine's ceilings, in Markdown on the standard output.
//!
//! `cargo bench -p joulewise-benches --bench roofline -- [--threads N] [FILTER]`

#![allow(clippy::print_stdout, reason = "the table is the result")]

use joulewise_benches::case::{self, Weights, must};
use joulewise_benches::ceiling::Ceilings;
use joulewise_benches::machine::Machine;
use joulewise_benches::roofline::{Table, ceilings_markdown};
use joulewise_benches::run;
use joulewise_benches::timing::{Effort, time};

fn main() {
    let is_test = run::is_test();
    let effort = if is_test { Effort::TEST } else { Effort::FULL };
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    println!("{}\n", Machine::here().describe());
    let all_kernels = run::all_kernels();
    let ceilings: Vec<Ceilings> =
        all_kernels.iter().map(|kernels| must(Ceilings::measure(kernels.pool(), is_test))).collect();
    println!("{}", ceilings_markdown(&ceilings));
    let mut table = Table::default();
    for (kernels, ceilings) in all_kernels.iter().zip(&ceilings) {
        let cases = case::matmul(kernels, Weights::Cached, is_test)
            .into_iter()
            .chain(case::matmul(kernels, Weights::Cold, is_test))
            .chain(case::attention(kernels, is_test))
            .chain(case::elementwise(kernels, is_test));
        for case in cases {
            if format!("{} {}", case.op, case.shape).contains(&filter) {
                let mut call = (case.prepare)();
                table.push(case.op, case.shape, time(effort, &mut *call), case.work, ceilings);
            }
        }
    }
    println!("{}", table.to_markdown());
}
