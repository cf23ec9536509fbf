//! A tiny random decoder with everything that decision groups depend on: separate query, key and value, gate and up,
//! a table of positions, and a head that is tied to the table of tokens.

#![allow(clippy::unwrap_used, reason = "a model that cannot be built is a failed test")]

use std::sync::Arc;

use joulewise_engine::{
    ActivationKind, Attention, AttentionSpec, CpuBackend, Format, IndexInput, Linear, ModelBuilder,
    ModelGraph, ModuleKind, Norm, OutputKind, PositionRule, Result, Session, SessionOptions, Strategy,
    TensorInfo, WeightShape, WeightSource,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

pub(crate) const VOCAB: usize = 40;
const WIDTH: usize = 32;

/// Values drawn from the tensor's own name: no state, any order.
pub(crate) struct RandomWeights(pub(crate) Arc<ModelGraph>);

impl WeightSource for RandomWeights {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let weight = self.0.weights.iter().find(|weight| weight.name == name)?;
        let shape = match weight.shape {
            WeightShape::Matrix { n, k } => vec![n, k],
            WeightShape::Vector { n } => vec![n],
        };
        Some(TensorInfo { shape, format: Format::F32 })
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let seed = name.bytes().fold(17u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut random = Pcg64::seed_from_u64(seed);
        let values = (0..start + out.len()).map(|_| random.random_range(-0.5f32..0.5));
        for (value, out) in values.skip(start).zip(out) {
            *out = if name.ends_with("norm.weight") { 1.0 + value } else { value };
        }
        Ok(())
    }
}

pub(crate) fn decoder() -> Arc<ModelGraph> {
    let mut b = ModelBuilder::new(VOCAB, 16, PositionRule::Sequential);
    let (tokens, table) = b.embedding("wte", IndexInput::TokenIds, VOCAB, WIDTH).unwrap();
    let (places, _) = b.embedding("wpe", IndexInput::Positions, 16, WIDTH).unwrap();
    let mut x = b.add("sum", tokens, places).unwrap();
    for layer in 0..2 {
        x = b
            .block(&format!("layers.{layer}"), layer, |b| {
                let normed = b.norm("norm", x, Norm::rms(1e-6))?;
                let attended = b.scope("attn", |b| {
                    let projection = Linear::new(ModuleKind::QkvProjection, WIDTH);
                    let q = b.linear("q_proj", normed, projection)?;
                    let k = b.linear("k_proj", normed, projection)?;
                    let v = b.linear("v_proj", normed, projection)?;
                    let spec = AttentionSpec {
                        heads: 4,
                        kv_heads: 4,
                        head_dim: 8,
                        scale: 0.35,
                        causal: true,
                        window: None,
                        alibi_slopes: None,
                    };
                    let core =
                        b.attention(q, k, v, Attention { spec, rope: None, cache_layer: Some(layer) })?;
                    b.linear("o_proj", core, Linear::new(ModuleKind::OutputProjection, WIDTH))
                })?;
                let x = b.add("attn_residual", x, attended)?;
                let mixed = b.scope("mlp", |b| {
                    let gate = b.linear("gate_proj", x, Linear::new(ModuleKind::MlpUp, 64))?;
                    let up = b.linear("up_proj", x, Linear::new(ModuleKind::MlpUp, 64))?;
                    let gated = b.gate("act", ActivationKind::Silu, gate, up)?;
                    b.linear("down_proj", gated, Linear::new(ModuleKind::MlpDown, WIDTH))
                })?;
                b.add("mlp_residual", x, mixed)
            })
            .unwrap();
    }
    let rows = b.logit_rows("rows", x).unwrap();
    let logits = b.tied_head("lm_head", rows, table).unwrap();
    Arc::new(b.finish(OutputKind::NextToken, logits).unwrap())
}

pub(crate) fn open(graph: &Arc<ModelGraph>) -> Session {
    let source = RandomWeights(graph.clone());
    let plan = Strategy::Fp32.into();
    Session::open(&CpuBackend::new(2), graph.clone(), &source, &plan, SessionOptions::default()).unwrap()
}
