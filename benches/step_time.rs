//! Times whole models, and what bounds them, for comparison with other engines; prints JSON.
//!
//! ```text
//! step_time forward MODEL STRATEGY TOKENS RUNS
//! step_time generate MODEL STRATEGY PROMPT_TOKENS NEW_TOKENS RUNS
//! step_time product FORMAT M N K RUNS
//! step_time read BYTES RUNS
//! ```
//! `generate` empties the cache, prefills, and decodes token after token, in each run. `product` multiplies matrices, the
//! inputs rounded as the format's, `read` only reads memory. Options, at the end:
//!
//! - `--threads N`, otherwise 1;
//! - `--batch N`: sequences of `forward`, otherwise 1;
//! - `--isa NAME`, otherwise the best one here;
//! - `--beside-reading`: `generate` reads as many bytes as a token does behind each, so that both meet the same memory, whose
//!   speed may change by the second; `share` says how much of a token's time the readings before and behind it take;
//! - `--everywhere`: embeddings and heads follow the strategy too.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program, its output is its result")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use joulewise_benches::case::must;
use joulewise_benches::ceiling::ReadBuffer;
use joulewise_benches::input;
use joulewise_benches::model::{open, token_ids, work_of_last_run};
use joulewise_benches::shape::LinearShape;
use joulewise_benches::timing::Timing;
use joulewise_engine::{PrecisionPlan, Session, Strategy, TokenBatch};
use joulewise_kernels::args::{InputRounding, MatMul, Rows, RowsMut};
use joulewise_kernels::cpu::{Buffer, CpuKernels, Isa, ThreadPool};
use joulewise_kernels::format::Format;

const USAGE: &str = "usage: step_time forward MODEL STRATEGY TOKENS RUNS [OPTIONS]\n\
                     \x20      step_time generate MODEL STRATEGY PROMPT_TOKENS NEW_TOKENS RUNS [OPTIONS]\n\
                     \x20      step_time product FORMAT M N K RUNS [OPTIONS]\n\
                     \x20      step_time read BYTES RUNS [OPTIONS]\n\
                     options: --threads N, --batch N, --isa NAME, --beside-reading, --everywhere";

/// Runs before those that count.
const WARM_UP: usize = 5;

/// One phase in the output.
#[derive(serde::Serialize)]
struct PhaseTimes {
    #[serde(flatten)]
    timing: Timing,
    /// Floating-point operations of a run, the last one.
    flops: f64,
    /// Bytes read and written by a run, the last one.
    bytes: f64,
    /// Seconds of each run.
    times_s: Vec<f64>,
    /// Of readings beside decoding: their time over that of each token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    share: Vec<f64>,
}

impl PhaseTimes {
    fn new(times_s: Vec<f64>, flops: f64, bytes: f64) -> Self {
        Self { timing: Timing::of(times_s.clone()), flops, bytes, times_s, share: Vec::new() }
    }

    fn of_last_run(session: &Session, times_s: Vec<f64>) -> Self {
        let work = work_of_last_run(session);
        Self::new(times_s, work.flops, work.bytes)
    }
}

type Phases = BTreeMap<&'static str, PhaseTimes>;

/// What follows the words that say what to measure.
struct Options {
    kernels: CpuKernels,
    batch: usize,
    beside_reading: bool,
    everywhere: bool,
}

impl Options {
    /// `None` when they are not options.
    fn parse(mut words: &[&str]) -> Option<Self> {
        let (mut threads, mut batch, mut isa) = (1, 1, Isa::best());
        let (mut beside_reading, mut everywhere) = (false, false);
        while let [option, rest @ ..] = words {
            words = rest;
            let flag = match *option {
                "--everywhere" => Some(&mut everywhere),
                "--beside-reading" => Some(&mut beside_reading),
                _ => None,
            };
            if let Some(flag) = flag {
                *flag = true;
                continue;
            }
            let [value, rest @ ..] = rest else { return None };
            words = rest;
            match *option {
                "--threads" => threads = value.parse().ok()?,
                "--batch" => batch = value.parse().ok()?,
                "--isa" => isa = *Isa::ALL.iter().find(|isa| isa.name() == *value)?,
                _ => return None,
            }
        }
        let kernels = CpuKernels::for_isa(isa, Arc::new(ThreadPool::new(threads)))?;
        Some(Self { kernels, batch, beside_reading, everywhere })
    }

    fn open(&self, model: &str, strategy: &str) -> Option<Session> {
        let strategy: Strategy = strategy.parse().ok()?;
        let rules = if self.everywhere { vec![("*".to_owned(), strategy)] } else { Vec::new() };
        Some(open(&self.kernels, model, &PrecisionPlan { rules, ..strategy.into() }))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((isa, phases)) = measure(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let phases: serde_json::Value = must(serde_json::to_value(phases));
    println!("{}", serde_json::json!({ "isa": isa.name(), "phases": phases }));
    ExitCode::SUCCESS
}

/// `None` when the arguments do not say what to measure.
fn measure(words: &[&str]) -> Option<(Isa, Phases)> {
    let end = words.iter().position(|word| word.starts_with("--")).unwrap_or(words.len());
    let (words, options) = words.split_at(end);
    let options = Options::parse(options)?;
    let number = |word: &str| word.parse::<usize>().ok();
    let phases = match words {
        ["forward", model, strategy, tokens, runs] => {
            forward(&mut options.open(model, strategy)?, number(tokens)?, options.batch, number(runs)?)
        }
        ["generate", model, strategy, prompt, new, runs] => {
            let session = &mut options.open(model, strategy)?;
            let reader = options.beside_reading.then_some(&options.kernels);
            generate(session, reader, [number(prompt)?, number(new)?, number(runs)?])
        }
        ["product", format, m, n, k, runs] => {
            let format = *Format::ALL.iter().find(|known| known.spec().name == *format)?;
            let shape = LinearShape { name: "product", n: number(n)?, k: number(k)? };
            product(&options.kernels, format, number(m)?, shape, number(runs)?)
        }
        ["read", bytes, runs] => read(&options.kernels, number(bytes)?, number(runs)?),
        _ => return None,
    };
    Some((options.kernels.isa(), phases))
}

fn forward(session: &mut Session, tokens: usize, batch: usize, runs: usize) -> Phases {
    let batch = must(TokenBatch::dense(token_ids(session, batch * tokens), batch));
    let times_s = times(runs, || must(session.forward(&batch)).data.len());
    BTreeMap::from([("forward", PhaseTimes::of_last_run(session, times_s))])
}

fn generate(session: &mut Session, reader: Option<&CpuKernels>, [prompt, new, runs]: [usize; 3]) -> Phases {
    let ids = token_ids(session, prompt + new);
    let batch = must(TokenBatch::single(&ids[..prompt]));
    let (mut prefill_s, mut decode_s) = (Vec::new(), Vec::new());
    let (mut buffer, mut read_s, mut share) = (None, Vec::new(), Vec::new());
    for run in 0..runs + 1 {
        let prefill = seconds(|| must(session.prefill(&batch)));
        let read = || {
            let (kernels, memory): &(&CpuKernels, ReadBuffer) = buffer.as_ref()?;
            Some(seconds(|| memory.read(kernels.pool(), 1)))
        };
        let mut before = read();
        for id in &ids[prompt..] {
            let decode = seconds(|| must(session.decode(&[*id])));
            let behind = read();
            if run > 0 {
                decode_s.push(decode);
                read_s.extend(behind);
                share.extend(before.zip(behind).map(|(before, behind)| (before + behind) / 2.0 / decode));
            }
            before = behind;
        }
        if run > 0 {
            prefill_s.push(prefill);
        } else if let Some(kernels) = reader {
            let bytes = work_of_last_run(session).bytes as usize;
            buffer = Some((kernels, must(ReadBuffer::new(bytes))));
        }
    }
    let decode = PhaseTimes::of_last_run(session, decode_s);
    let bytes = decode.bytes;
    must(session.prefill(&batch));
    let mut phases =
        BTreeMap::from([("prefill", PhaseTimes::of_last_run(session, prefill_s)), ("decode", decode)]);
    if reader.is_some() {
        phases.insert("read", PhaseTimes { share, ..PhaseTimes::new(read_s, 0.0, bytes) });
    }
    phases
}

fn product(kernels: &CpuKernels, format: Format, m: usize, shape: LinearShape, runs: usize) -> Phases {
    let (n, k) = (shape.n, shape.k);
    let w = input::weights(kernels, format, shape, 2);
    let mut x = must(Buffer::zeroed(m * k));
    x.copy_from_slice(&input::values(1, m * k));
    let mut y = must(Buffer::zeroed(m * n));
    let rounding = if format == Format::Int8 { InputRounding::PerToken } else { InputRounding::None };
    let times_s = times(runs, || {
        must(kernels.matmul(MatMul {
            x: Rows { data: &x, rows: m, cols: k, stride: k },
            rounding,
            w: &w,
            bias: None,
            activation: None,
            residual: None,
            next: &[],
            y: RowsMut { data: &mut y, rows: m, cols: n },
        }));
    });
    let bytes = w.size_bytes() + (m * (n + k)) * size_of::<f32>();
    BTreeMap::from([("product", PhaseTimes::new(times_s, shape.flops(m), bytes as f64))])
}

fn read(kernels: &CpuKernels, bytes: usize, runs: usize) -> Phases {
    let buffer = must(ReadBuffer::new(bytes));
    let times_s = times(runs, || buffer.read(kernels.pool(), 1));
    BTreeMap::from([("read", PhaseTimes::new(times_s, 0.0, bytes as f64))])
}

/// Seconds of each run but the first few.
fn times<T>(runs: usize, mut run: impl FnMut() -> T) -> Vec<f64> {
    let mut times_s: Vec<f64> = (0..WARM_UP + runs).map(|_| seconds(&mut run)).collect();
    times_s.drain(..WARM_UP);
    times_s
}

/// Seconds until `run` has a result.
fn seconds<T>(run: impl FnOnce() -> T) -> f64 {
    let begin = Instant::now();
    black_box(run());
    begin.elapsed().as_secs_f64()
}
