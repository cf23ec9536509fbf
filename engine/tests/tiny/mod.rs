//! Tiny random models that the engine's tests run: a decoder with most of what a decoder can have.

#![allow(clippy::unwrap_used, reason = "a model that cannot be built is a failed test")]

use std::sync::Arc;

use joulewise_engine::{
    ActivationKind, Attention, AttentionSpec, CpuBackend, Format, IndexInput, Linear, ModelBuilder,
    ModelGraph, ModuleKind, Norm, OutputKind, PositionRule, Result, RopeScaling, RopeSpec, Session,
    SessionOptions, Strategy, TensorInfo, WeightSource,
};
use rand::{Rng, SeedableRng};

pub(crate) const VOCAB: usize = 50;
pub(crate) const LAYERS: usize = 3;
const WIDTH: usize = 24;

/// Values drawn from the tensor's own name: no state, any order.
pub(crate) struct RandomWeights(pub(crate) Arc<ModelGraph>);

impl WeightSource for RandomWeights {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let weight = self.0.weights.iter().find(|weight| weight.name == name)?;
        let shape = match weight.shape {
            joulewise_engine::WeightShape::Matrix { n, k } => vec![n, k],
            joulewise_engine::WeightShape::Vector { n } => vec![n],
        };
        Some(TensorInfo { shape, format: Format::F32 })
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let seed = name.bytes().fold(17u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
        let values = (0..start + out.len()).map(|_| random.random_range(-0.5f32..0.5));
        for (value, out) in values.skip(start).zip(out) {
            *out = if name.ends_with("norm.weight") { 1.0 + value } else { value };
        }
        Ok(())
    }
}

pub(crate) fn decoder() -> Arc<ModelGraph> {
    let mut b = ModelBuilder::new(VOCAB, 64, PositionRule::Sequential);
    let rope = b.rope(RopeSpec { theta: 1e4, rotary: 4, scaling: RopeScaling::Default });
    let (mut x, table) = b.embedding("embed", IndexInput::TokenIds, VOCAB, WIDTH).unwrap();
    b.hidden_state(x);
    for layer in 0..LAYERS {
        x = b
            .block(&format!("layers.{layer}"), layer, |b| {
                let normed = b.norm("norm", x, Norm::rms(1e-6))?;
                let attended = b.scope("attn", |b| {
                    let qkv = b.linear("qkv", normed, Linear::new(ModuleKind::QkvProjection, 24 + 2 * 12))?;
                    let (q, k, v) = (b.slice(qkv, 0, 24)?, b.slice(qkv, 24, 12)?, b.slice(qkv, 36, 12)?);
                    let spec = AttentionSpec {
                        heads: 4,
                        kv_heads: 2,
                        head_dim: 6,
                        scale: 0.4,
                        causal: true,
                        window: (layer == 1).then_some(5),
                        alibi_slopes: None,
                    };
                    let core =
                        b.attention(q, k, v, Attention { spec, rope: Some(rope), cache_layer: Some(layer) })?;
                    b.linear("out", core, Linear::new(ModuleKind::OutputProjection, WIDTH).with_bias(false))
                })?;
                let x = b.add("attn.residual", x, attended)?;
                let down = b.scope("mlp", |b| {
                    let up = b.linear("up", x, Linear::new(ModuleKind::MlpUp, 40))?;
                    let gate = b.linear("gate", x, Linear::new(ModuleKind::MlpUp, 40))?;
                    let gated = b.gate("act", ActivationKind::Silu, gate, up)?;
                    b.linear("down", gated, Linear::new(ModuleKind::MlpDown, WIDTH))
                })?;
                b.add("residual", x, down)
            })
            .unwrap();
        b.hidden_state(x);
    }
    let last = b.logit_rows("last", x).unwrap();
    let logits = b.tied_head("head", last, table).unwrap();
    Arc::new(b.finish(OutputKind::NextToken, logits).unwrap())
}

pub(crate) fn open(graph: &Arc<ModelGraph>) -> Session {
    open_with_cache(graph, None).unwrap()
}

pub(crate) fn open_with_cache(graph: &Arc<ModelGraph>, cache_format: Option<Format>) -> Result<Session> {
    let source = RandomWeights(graph.clone());
    let mut options = SessionOptions::default();
    options.cache_format = cache_format;
    Session::open(&CpuBackend::new(2), graph.clone(), &source, &Strategy::Fp32.into(), options)
}
