//! Times whole models on a GPU, with made-up weights at real shapes.
//!
//! `cuda_speed decode mistral-7b fp16 512` · `cuda_speed prefill mistral-7b fp16 1 2048` ·
//! `cuda_speed forward distilbert-base fp16 1 128` · `cuda_speed modules mistral-7b fp16 512`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::time::Instant;

use joulewise_engine::{CudaBackend, Session, SessionOptions, TokenBatch};
use joulewise_models::synthetic::prompt;
use joulewise_models::{ModelSpec, load};

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map_or(Ok(1), |text| text.parse::<usize>());
    let (mode, preset) = (arguments[0].as_str(), arguments[1].as_str());
    let backend = CudaBackend::new(0)?;
    let model = load(&ModelSpec::parse(&format!("synth:{preset}"))?)?;
    let vocab = model.graph.vocab_size;
    let started = Instant::now();
    let options = SessionOptions::default();
    let strategy: joulewise_engine::Strategy = arguments[2].parse()?;
    let mut session =
        Session::open(&backend, model.graph.clone(), model.weights.as_ref(), &strategy.into(), options)?;
    println!("{preset} {strategy}: loaded in {:.1} s", started.elapsed().as_secs_f64());
    let timed = |session: &mut Session, repeats: usize, run: &mut dyn FnMut(&mut Session)| {
        for _ in 0..3 {
            run(session);
        }
        let times = (0..repeats).map(|_| {
            let start = Instant::now();
            run(session);
            start.elapsed().as_secs_f64()
        });
        median(times.collect())
    };
    match mode {
        "decode" | "modules" => {
            let (length, batch) = (number(3)?, number(4)?);
            session.prefill(&TokenBatch::dense(prompt(vocab, length * batch), batch)?)?;
            let tokens = prompt(vocab, batch);
            let step_s = timed(&mut session, 100, &mut |session| {
                session.decode(&tokens).unwrap();
            });
            println!(
                "{preset} {strategy} decode batch {batch} context {length}: {:.3} ms/step, {:.1} tok/s, {:.2} TB/s of weights",
                step_s * 1e3,
                batch as f64 / step_s,
                session.weight_bytes() as f64 / step_s / 1e12
            );
            if mode == "modules" {
                let program = session.last_program().unwrap().clone();
                for cut in program.cuts(joulewise_engine::Granularity::Module) {
                    let module = model.graph.modules.get(cut.module);
                    if module.block.is_none_or(|block| block == 1) {
                        let mut replay = session.replay(cut.module)?;
                        replay.run(20)?;
                        let seconds = replay.run(100)? / 100.0;
                        replay.finish()?;
                        let bytes = program.cost(cut.steps.clone(), length).weight_bytes;
                        println!(
                            "{:8.2} us {:6.2} TB/s  {}",
                            seconds * 1e6,
                            bytes / seconds / 1e12,
                            module.path
                        );
                    }
                }
            }
        }
        "prefill" => {
            let (batch, length) = (number(3)?, number(4)?);
            let input = TokenBatch::dense(prompt(vocab, length * batch), batch)?;
            let seconds = timed(&mut session, 10, &mut |session| {
                session.prefill(&input).unwrap();
            });
            let tokens = (batch * length) as f64;
            println!(
                "{preset} {strategy} prefill {batch} x {length}: {:.2} ms, {:.0} tok/s",
                seconds * 1e3,
                tokens / seconds
            );
        }
        _ => {
            let (batch, length) = (number(3)?, number(4)?);
            let input = TokenBatch::dense(prompt(vocab, length * batch), batch)?;
            let seconds = timed(&mut session, 30, &mut |session| {
                session.forward(&input).unwrap();
            });
            println!(
                "{preset} {strategy} forward {batch} x {length}: {:.3} ms, {:.0} seq/s",
                seconds * 1e3,
                batch as f64 / seconds
            );
        }
    }
    Ok(())
}
