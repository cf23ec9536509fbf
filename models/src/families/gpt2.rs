//! GPT-2 (Radford et al. 2019): pre-norm, learned positions, fused query-key-value, weights stored `[in, out]`.

use joulewise_engine::{
    Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm, OutputKind,
    PositionRule, WeightLayout,
};

use super::{Head, activation, head_dim, language_model_head};
use crate::config::ModelConfig;
use crate::error::Result;

/// `gpt2`.
pub(super) fn build(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    if config.bool_or("add_cross_attention", false)? {
        return Err(config.unsupported("add_cross_attention", true, "there is no encoder to attend to"));
    }
    let hidden_size = config.usize("hidden_size")?;
    let intermediate_size = config.optional_usize("intermediate_size")?.unwrap_or(4 * hidden_size);
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.usize("max_position_embeddings")?;
    let norm = Norm::layer(config.epsilon("layer_norm_eps", 1e-5)?);
    let activation = activation(config, "gelu_new")?;
    let is_tied = config.bool_or("tie_word_embeddings", true)?;
    let is_scaled = config.bool_or("scale_attn_weights", true)?;
    let is_scaled_by_layer = config.bool_or("scale_attn_by_inverse_layer_idx", false)?;

    let attention = |layer: usize| {
        let by_width = if is_scaled { 1.0 / (head_dim as f32).sqrt() } else { 1.0 };
        let by_layer = if is_scaled_by_layer { 1.0 / (layer + 1) as f32 } else { 1.0 };
        let spec = AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: by_width * by_layer,
            causal: true,
            window: None,
            alibi_slopes: None,
        };
        Attention { spec, rope: None, cache_layer: Some(layer) }
    };
    let conv1d = |kind, n| Linear::new(kind, n).with_layout(WeightLayout::Transposed);
    let mut b = ModelBuilder::new(vocab_size, max_positions, PositionRule::Sequential);
    let (x, table) = b.scope("transformer", |b| {
        let (tokens, table) = b.embedding("wte", IndexInput::TokenIds, vocab_size, hidden_size)?;
        let (places, _) = b.embedding("wpe", IndexInput::Positions, max_positions, hidden_size)?;
        let mut x = b.add("position_sum", tokens, places)?;
        for layer in 0..layers {
            b.hidden_state(x);
            x = b.block(&format!("h.{layer}"), layer, |b| {
                let normed = b.norm("ln_1", x, norm)?;
                let attended = b.scope("attn", |b| {
                    let qkv =
                        b.linear("c_attn", normed, conv1d(ModuleKind::QkvProjection, 3 * hidden_size))?;
                    let part = |index| b.slice(qkv, index * hidden_size, hidden_size);
                    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
                    let context = b.attention(q, k, v, attention(layer))?;
                    b.linear("c_proj", context, conv1d(ModuleKind::OutputProjection, hidden_size))
                })?;
                let x = b.add("attn_residual", x, attended)?;
                let normed = b.norm("ln_2", x, norm)?;
                let mixed = b.scope("mlp", |b| {
                    let up = b.linear("c_fc", normed, conv1d(ModuleKind::MlpUp, intermediate_size))?;
                    let active = b.activation("act", ModuleKind::MlpActivation, activation, up)?;
                    b.linear("c_proj", active, conv1d(ModuleKind::MlpDown, hidden_size))
                })?;
                b.add("mlp_residual", x, mixed)
            })?;
        }
        Ok((b.norm("ln_f", x, norm)?, table))
    })?;
    b.hidden_state(x);
    let logits = language_model_head(&mut b, x, table, vocab_size, is_tied)?;
    Ok(b.finish(OutputKind::NextToken, logits)?)
}
