//! Where does the time of one forward pass go? Builds a two-layer MLP, watches it, prints milliseconds per module.
//!
//! `cargo run --release -p joulewise-engine --example observe`

use std::sync::Arc;

use joulewise_engine::*;

/// Milliseconds of each module, in program order.
#[derive(Default)]
struct Times(Vec<(String, f64)>);

impl Observer for Times {
    fn granularity(&self) -> Granularity {
        Granularity::Module
    }
    fn spans(&mut self, program: &Program, spans: &[Span]) {
        let path = |span: &Span| program.graph().modules.get(span.module).path.clone();
        self.0 = spans.iter().map(|span| (path(span), span.duration_s * 1e3)).collect();
    }
}

/// All weights are 0.01; a checkpoint of `joulewise-models` goes in the same place.
struct Constant(Arc<ModelGraph>);

impl WeightSource for Constant {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let shape = match self.0.weights.iter().find(|weight| weight.name == name)?.shape {
            WeightShape::Matrix { n, k } => vec![n, k],
            WeightShape::Vector { n } => vec![n],
        };
        Some(TensorInfo { shape, format: Format::F32 })
    }
    fn read(&self, _: &str, _: usize, out: &mut [f32]) -> Result<()> {
        out.fill(0.01);
        Ok(())
    }
}

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let mut builder = ModelBuilder::new(1000, 128, PositionRule::Sequential);
    let (x, _) = builder.embedding("embed", IndexInput::TokenIds, 1000, 768)?;
    let up = builder.linear("up", x, Linear::new(ModuleKind::MlpUp, 3072))?;
    let active = builder.activation("act", ModuleKind::MlpActivation, ActivationKind::GeluErf, up)?;
    let down = builder.linear("down", active, Linear::new(ModuleKind::MlpDown, 768))?;
    let pooled = builder.mean_pool("pool", down)?;
    let graph = Arc::new(builder.finish(OutputKind::Embedding, pooled)?);

    let (backend, weights) = (CpuBackend::with_all_cores(), Constant(graph.clone()));
    let mut session =
        Session::open(&backend, graph, &weights, &Strategy::Fp32.into(), SessionOptions::default())?;
    let batch = TokenBatch::single(&[1; 128])?;
    let mut times = Times::default();
    session.forward(&batch)?;
    session.observed(&mut times).forward(&batch)?;
    for (path, milliseconds) in times.0 {
        println!("{path:8} {milliseconds:8.3} ms");
    }
    Ok(())
}
