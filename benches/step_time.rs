//! Times whole models for comparison with other engines; prints JSON.
//!
//! ```text
//! step_time MODEL STRATEGY THREADS forward TOKENS RUNS
//! step_time MODEL STRATEGY THREADS generate PROMPT_TOKENS NEW_TOKENS RUNS
//! ```
//! `generate` empties the cache, prefills, and decodes token after token, in each run.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program, its output is its result")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use joulewise_benches::case::must;
use joulewise_benches::model::{open, token_ids, work_of_last_run};
use joulewise_benches::timing::Timing;
use joulewise_engine::{Session, Strategy, TokenBatch};
use joulewise_kernels::cpu::{CpuKernels, ThreadPool};

const USAGE: &str = "usage: step_time MODEL STRATEGY THREADS forward TOKENS RUNS\n\
                     \x20      step_time MODEL STRATEGY THREADS generate PROMPT_TOKENS NEW_TOKENS RUNS";

/// Runs before those that count.
const WARM_UP: usize = 5;

/// One phase in the output.
#[derive(serde::Serialize)]
struct PhaseTimes {
    #[serde(flatten)]
    timing: Timing,
    /// Of the last run.
    gflop_per_s: f64,
    /// Of the last run.
    gb_per_s: f64,
    /// Seconds of each run.
    times_s: Vec<f64>,
}

impl PhaseTimes {
    fn new(session: &Session, times_s: Vec<f64>) -> Self {
        let timing = Timing::of(times_s.clone());
        let work = work_of_last_run(session);
        let rate = |amount: f64| amount / timing.median_s * 1e-9;
        Self { timing, gflop_per_s: rate(work.flops), gb_per_s: rate(work.bytes), times_s }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((session, times)) = measure(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let times: serde_json::Value = must(serde_json::to_value(times));
    println!("{}", serde_json::json!({ "device": session.device(), "phases": times }));
    ExitCode::SUCCESS
}

/// `None` when the arguments do not say what to measure.
fn measure(words: &[&str]) -> Option<(Session, BTreeMap<&'static str, PhaseTimes>)> {
    let (["forward" | "generate", ..], [model, strategy, threads]) = (words.get(3..)?, &words[..3]) else {
        return None;
    };
    let numbers: Vec<usize> = words[4..].iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let strategy: Strategy = strategy.parse().ok()?;
    let kernels = CpuKernels::best(Arc::new(ThreadPool::new(threads.parse().ok()?)));
    let mut session = open(&kernels, model, strategy);
    let times = match (words[3], &numbers[..]) {
        ("forward", [tokens, runs]) => forward(&mut session, *tokens, *runs),
        ("generate", [prompt, new, runs]) => generate(&mut session, *prompt, *new, *runs),
        _ => return None,
    };
    Some((session, times))
}

fn forward(session: &mut Session, tokens: usize, runs: usize) -> BTreeMap<&'static str, PhaseTimes> {
    let batch = must(TokenBatch::single(&token_ids(session, tokens)));
    let mut times_s: Vec<f64> =
        (0..WARM_UP + runs).map(|_| seconds(|| must(session.forward(&batch)))).collect();
    times_s.drain(..WARM_UP);
    BTreeMap::from([("forward", PhaseTimes::new(session, times_s))])
}

fn generate(
    session: &mut Session,
    prompt: usize,
    new: usize,
    runs: usize,
) -> BTreeMap<&'static str, PhaseTimes> {
    let ids = token_ids(session, prompt + new);
    let batch = must(TokenBatch::single(&ids[..prompt]));
    let (mut prefill_s, mut decode_s) = (Vec::new(), Vec::new());
    for run in 0..runs + 1 {
        let prefill = seconds(|| must(session.prefill(&batch)));
        let decode: Vec<f64> =
            ids[prompt..].iter().map(|id| seconds(|| must(session.decode(&[*id])))).collect();
        if run > 0 {
            prefill_s.push(prefill);
            decode_s.extend(decode);
        }
    }
    let decode = PhaseTimes::new(session, decode_s);
    must(session.prefill(&batch));
    BTreeMap::from([("prefill", PhaseTimes::new(session, prefill_s)), ("decode", decode)])
}

/// Seconds until `run` has a result.
fn seconds<T>(run: impl FnOnce() -> T) -> f64 {
    let begin = Instant::now();
    black_box(run());
    begin.elapsed().as_secs_f64()
}
