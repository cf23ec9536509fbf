//! DistilBERT (Sanh et al. 2019): BERT's layers without token types and pooler.

use joulewise_engine::{
    ActivationKind, Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm,
    OutputKind, PositionRule,
};

use super::{Head, activation, head_dim, pool};
use crate::config::ModelConfig;
use crate::error::Result;

/// The reference fixes it, whatever the configuration says.
const LAYER_NORM_EPS: f64 = 1e-12;

/// `distilbert`.
pub(super) fn build(config: &ModelConfig, head: Head) -> Result<ModelGraph> {
    let hidden_size = config.usize("hidden_size")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.usize("max_position_embeddings")?;
    let activation = activation(config, "gelu")?;
    let labels = config.labels()?.len();
    let norm = Norm::layer(LAYER_NORM_EPS);

    let attention = Attention {
        spec: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
            window: None,
            alibi_slopes: None,
        },
        rope: None,
        cache_layer: None,
    };
    let mut b = ModelBuilder::new(vocab_size, max_positions, PositionRule::Sequential);
    // A model without a head is saved without the prefix.
    let scope = if head == Head::Embedding { "" } else { "distilbert" };
    let hidden = b.scope(scope, |b| {
        let mut x = b.scope("embeddings", |b| {
            let (words, _) = b.embedding("word_embeddings", IndexInput::TokenIds, vocab_size, hidden_size)?;
            let (places, _) =
                b.embedding("position_embeddings", IndexInput::Positions, max_positions, hidden_size)?;
            let sum = b.add("position_sum", words, places)?;
            b.norm("LayerNorm", sum, norm)
        })?;
        b.hidden_state(x);
        for layer in 0..layers {
            x = b.block(&format!("transformer.layer.{layer}"), layer, |b| {
                let attended = b.scope("attention", |b| {
                    let projection = Linear::new(ModuleKind::QkvProjection, hidden_size);
                    let q = b.linear("q_lin", x, projection)?;
                    let k = b.linear("k_lin", x, projection)?;
                    let v = b.linear("v_lin", x, projection)?;
                    let context = b.attention(q, k, v, attention.clone())?;
                    b.linear("out_lin", context, Linear::new(ModuleKind::OutputProjection, hidden_size))
                })?;
                let sum = b.add("sa_residual", attended, x)?;
                let x = b.norm("sa_layer_norm", sum, norm)?;
                let mixed = b.scope("ffn", |b| {
                    let up = b.linear("lin1", x, Linear::new(ModuleKind::MlpUp, intermediate_size))?;
                    let active = b.activation("activation", ModuleKind::MlpActivation, activation, up)?;
                    b.linear("lin2", active, Linear::new(ModuleKind::MlpDown, hidden_size))
                })?;
                let sum = b.add("output_residual", mixed, x)?;
                b.norm("output_layer_norm", sum, norm)
            })?;
            b.hidden_state(x);
        }
        Ok(x)
    })?;
    if head == Head::Embedding {
        let pooled = pool(&mut b, config.pooling(), hidden)?;
        return Ok(b.finish(OutputKind::Embedding, pooled)?);
    }
    let first = b.first_token("first_token", hidden)?;
    let dense = b.linear("pre_classifier", first, Linear::new(ModuleKind::Head, hidden_size))?;
    let active = b.activation("relu", ModuleKind::Head, ActivationKind::Relu, dense)?;
    let classes = b.linear("classifier", active, Linear::new(ModuleKind::Head, labels))?;
    Ok(b.finish(OutputKind::Classes, classes)?)
}
