//! One table of all kernels, and of whole models module by module, beside the machine's ceilings, in Markdown on the
//! standard output.
//!
//! `cargo bench -p joulewise-benches --bench roofline -- [FILTER]` keeps the rows whose op and shape contain the
//! filter.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use joulewise_benches::case::{self, Weights, must};
use joulewise_benches::ceiling::Ceilings;
use joulewise_benches::machine::Machine;
use joulewise_benches::model::{KindTimes, ModelStep, model_steps, work_of_last_run};
use joulewise_benches::roofline::{Table, Work, ceilings_markdown};
use joulewise_benches::run;
use joulewise_benches::timing::{Effort, Timing, time};
use joulewise_engine::Unobserved;
use joulewise_kernels::cpu::CpuKernels;

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
    for (kernels, ceilings) in all_kernels.iter().zip(&ceilings) {
        for step in model_steps(is_test) {
            if format!("{} {}", step.label(), step.strategy).contains(&filter) {
                add_model_step(&mut table, &step, kernels, ceilings, effort);
            }
        }
    }
    println!("{}", table.to_markdown());
}

/// One row for the whole step, and one for all modules of each kind.
fn add_model_step(
    table: &mut Table,
    step: &ModelStep,
    kernels: &CpuKernels,
    ceilings: &Ceilings,
    effort: Effort,
) {
    let mut session = step.session(kernels);
    let label = format!("{} {}", step.label(), step.strategy);
    let whole = time(effort, || {
        must(session.observed(&mut Unobserved).repeat());
    });
    let work = work_of_last_run(&session);
    table.push("whole step", &label, whole, work, ceilings);
    let mut times = KindTimes::new(session.last_kv_start());
    time(effort, || {
        must(session.observed(&mut times).repeat());
    });
    for (kind, (times_s, cost)) in times.kinds {
        let (flops, bytes) = (cost.flops, cost.bytes_read + cost.bytes_written);
        let work = Work { flops, bytes, ..work };
        table.push(kind.name(), &label, Timing::of(times_s), work, ceilings);
    }
}
