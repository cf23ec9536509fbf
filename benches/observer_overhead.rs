//! What observing costs: the same step, unobserved and cut ever more finely.
//!
//! The base is a plain loop over `Executable::run`, as `Session::replay` of the whole program does it; there is no
//! observer in it at all. All variants run on the same memory, in rounds of turns, so that whatever else the machine
//! does hits all of them; the ratio of each round is taken, and the median of the ratios.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::process::ExitCode;
use std::time::Instant;

use joulewise_benches::case::must;
use joulewise_benches::machine::Machine;
use joulewise_benches::model::ModelStep;
use joulewise_benches::run;
use joulewise_benches::timing::Timing;
use joulewise_engine::{Granularity, ModuleId, Observer, Phase, Session, Strategy};
use joulewise_kernels::cpu::CpuKernels;

/// What an unobserved step may differ by from the plain loop.
const TOLERANCE: f64 = 0.02;

/// Asks for cuts and does nothing with them.
struct Cutting(Granularity);

impl Observer for Cutting {
    fn granularity(&self) -> Granularity {
        self.0
    }
}

const GRANULARITIES: [(Granularity, &str); 4] = [
    (Granularity::Off, "off"),
    (Granularity::Block, "block"),
    (Granularity::Module, "module"),
    (Granularity::Step, "step"),
];

fn main() -> ExitCode {
    let is_test = run::is_test();
    println!("{}\n", Machine::here().describe());
    println!("| step | threads | plain loop | observed | cuts | ratio | p10 - p90 of rounds |");
    println!("|---|--:|--:|---|--:|--:|--:|");
    let steps = [
        ("demo:gpt2", Phase::Decode, 32),
        ("demo:gpt2", Phase::Prefill, 32),
        ("synth:gpt2", Phase::Decode, 128),
    ];
    let mut is_free = true;
    for kernels in run::all_kernels() {
        for (model, phase, tokens) in &steps[..if is_test { 2 } else { 3 }] {
            let step = ModelStep { model, strategy: Strategy::Fp32, phase: *phase, tokens: *tokens };
            is_free &= measure(&kernels, &step, is_test);
        }
    }
    // A test machine may be busy; there the ratios are printed but not judged.
    if is_free || is_test { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the rows of one step; whether an unobserved step takes as long as the plain loop.
fn measure(kernels: &CpuKernels, step: &ModelStep, is_test: bool) -> bool {
    let mut session = step.session(kernels);
    let once = plain(&mut session, 1).max(1e-7);
    let (rounds, repeats) = if is_test { (1, 1) } else { (101, (5e-3 / once).ceil() as usize) };
    let mut base_s = Vec::new();
    let mut ratios = [const { Vec::new() }; GRANULARITIES.len()];
    for round in 0..rounds {
        // Each variant stands between two runs of the base, in an order that turns from round to round.
        for turn in 0..GRANULARITIES.len() {
            let variant = (round + turn) % GRANULARITIES.len();
            let before = plain(&mut session, repeats);
            let seconds = observed(&mut session, GRANULARITIES[variant].0, repeats);
            let base = (before + plain(&mut session, repeats)) / 2.0;
            base_s.push(base / repeats as f64);
            ratios[variant].push(seconds / base);
        }
    }
    let base_us = Timing::of(base_s).median_s * 1e6;
    let cuts = |granularity| session.last_program().map_or(0, |program| program.cuts(granularity).len());
    let mut is_free = true;
    for ((granularity, name), ratios) in GRANULARITIES.into_iter().zip(ratios) {
        let ratio = Timing::of(ratios);
        is_free &= granularity != Granularity::Off || (ratio.median_s - 1.0).abs() <= TOLERANCE;
        println!(
            "| {} {} | {} | {base_us:.1} us | {name} | {} | {:.3} | {:.3} - {:.3} |",
            step.model,
            step.label(),
            kernels.threads(),
            cuts(granularity),
            ratio.median_s,
            ratio.p10_s,
            ratio.p90_s,
        );
    }
    is_free
}

/// Seconds of `repeats` runs that nobody could observe.
fn plain(session: &mut Session, repeats: usize) -> f64 {
    must(must(session.replay(ModuleId::ROOT)).run(repeats))
}

/// Seconds of `repeats` runs cut like this.
fn observed(session: &mut Session, granularity: Granularity, repeats: usize) -> f64 {
    let begin = Instant::now();
    for _ in 0..repeats {
        must(session.observed(&mut Cutting(granularity)).repeat());
    }
    begin.elapsed().as_secs_f64()
}
