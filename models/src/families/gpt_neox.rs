//! GPT-NeoX and Pythia (Black et al. 2022): parallel attention and MLP, partial rotary embedding, query-key-value head
//! by head.

use joulewise_engine::{
    Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm, OutputKind,
    PositionRule, WeightLayout,
};

use super::rope::{Share, rope};
use super::{Head, activation, head_dim, language_model_head};
use crate::config::ModelConfig;
use crate::error::Result;

/// `gpt_neox`.
pub(super) fn build(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    let hidden_size = config.usize("hidden_size")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.usize("max_position_embeddings")?;
    let norm = Norm::layer(config.epsilon("layer_norm_eps", 1e-5)?);
    let activation = activation(config, "gelu")?;
    let is_tied = config.bool_or("tie_word_embeddings", false)?;
    let is_parallel = config.bool_or("use_parallel_residual", true)?;
    let has_bias = config.bool_or("attention_bias", true)?;
    let rope =
        rope(config, head_dim, "rotary_emb_base", Share::Stated { old_name: "rotary_pct", default: 0.25 })?;

    let mut b = ModelBuilder::new(vocab_size, max_positions, PositionRule::Sequential);
    let rope = b.rope(rope);
    let attention = |layer| Attention {
        spec: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            window: None,
            alibi_slopes: None,
        },
        rope: Some(rope),
        cache_layer: Some(layer),
    };
    let (x, table) = b.scope("gpt_neox", |b| {
        let (mut x, table) = b.embedding("embed_in", IndexInput::TokenIds, vocab_size, hidden_size)?;
        for layer in 0..layers {
            b.hidden_state(x);
            x = b.block(&format!("layers.{layer}"), layer, |b| {
                let normed = b.norm("input_layernorm", x, norm)?;
                let attended = b.scope("attention", |b| {
                    let fused = Linear::new(ModuleKind::QkvProjection, 3 * hidden_size)
                        .with_bias(has_bias)
                        .with_layout(WeightLayout::HeadInterleaved { heads });
                    let qkv = b.linear("query_key_value", normed, fused)?;
                    let part = |index| b.slice(qkv, index * hidden_size, hidden_size);
                    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
                    let context = b.attention(q, k, v, attention(layer))?;
                    let out = Linear::new(ModuleKind::OutputProjection, hidden_size).with_bias(has_bias);
                    b.linear("dense", context, out)
                })?;
                let sum = b.add("attention_residual", x, attended)?;
                let normed = b.norm("post_attention_layernorm", if is_parallel { x } else { sum }, norm)?;
                let mixed = b.scope("mlp", |b| {
                    let up =
                        b.linear("dense_h_to_4h", normed, Linear::new(ModuleKind::MlpUp, intermediate_size))?;
                    let active = b.activation("act", ModuleKind::MlpActivation, activation, up)?;
                    b.linear("dense_4h_to_h", active, Linear::new(ModuleKind::MlpDown, hidden_size))
                })?;
                b.add("mlp_residual", sum, mixed)
            })?;
        }
        Ok((b.norm("final_layer_norm", x, norm)?, table))
    })?;
    b.hidden_state(x);
    let logits = language_model_head(&mut b, x, table, vocab_size, is_tied)?;
    Ok(b.finish(OutputKind::NextToken, logits)?)
}
