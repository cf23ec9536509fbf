//! Where does the time of one prompt go? `cargo run --release -p joulewise-models --example module_times`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use joulewise_engine::{
    CpuBackend, Granularity, Observer, Program, Session, SessionOptions, Span, Strategy, TokenBatch,
};
use joulewise_models::{ModelSpec, load};

struct Times;

impl Observer for Times {
    fn granularity(&self) -> Granularity {
        Granularity::Module
    }

    fn spans(&mut self, program: &Program, spans: &[Span]) {
        for span in spans {
            println!("{:40} {:8.3} ms", program.graph().modules.get(span.module).path, span.duration_s * 1e3);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = load(&ModelSpec::parse("demo:gpt2")?)?;
    let (backend, plan) = (CpuBackend::with_all_cores(), Strategy::Fp32.into());
    let (graph, weights) = (model.graph.clone(), model.weights.as_ref());
    let mut session = Session::open(&backend, graph, weights, &plan, SessionOptions::default())?;
    let ids = model.tokenizer()?.encode("The film was released in")?;
    session.observed(&mut Times).prefill(&TokenBatch::single(&ids)?)?;
    Ok(())
}
