//! BLOOM and BLOOMZ (BigScience 2022): pre-norm, ALiBi, a norm behind the embeddings, query-key-value head by head.

use joulewise_engine::{
    ActivationKind, Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm,
    OutputKind, PositionRule, WeightLayout, alibi_slopes,
};

use super::{Head, head_dim, language_model_head};
use crate::config::ModelConfig;
use crate::error::Result;

/// ALiBi has no table of positions; this is the length the published models were trained with.
const TRAINED_POSITIONS: usize = 2048;

/// `bloom`.
pub(super) fn build(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    if config.bool_or("slow_but_exact", false)? && config.optional_usize("pretraining_tp")?.unwrap_or(1) > 1 {
        return Err(config.unsupported("slow_but_exact", true, "the reference drops biases there"));
    }
    let hidden_size = config.usize("hidden_size")?;
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.optional_usize("seq_length")?.unwrap_or(TRAINED_POSITIONS);
    let norm = Norm::layer(config.epsilon("layer_norm_eps", 1e-5)?);
    let is_tied = config.bool_or("tie_word_embeddings", true)?;
    let is_residual_normed = config.bool_or("apply_residual_connection_post_layernorm", false)?;

    let attention = |layer| Attention {
        spec: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            window: None,
            alibi_slopes: Some(alibi_slopes(heads)),
        },
        rope: None,
        cache_layer: Some(layer),
    };
    let mut b = ModelBuilder::new(vocab_size, max_positions, PositionRule::Sequential);
    let (x, table) = b.scope("transformer", |b| {
        let (tokens, table) =
            b.embedding("word_embeddings", IndexInput::TokenIds, vocab_size, hidden_size)?;
        let mut x = b.norm("word_embeddings_layernorm", tokens, norm)?;
        for layer in 0..layers {
            b.hidden_state(x);
            x = b.block(&format!("h.{layer}"), layer, |b| {
                let normed = b.norm("input_layernorm", x, norm)?;
                let attended = b.scope("self_attention", |b| {
                    let fused = Linear::new(ModuleKind::QkvProjection, 3 * hidden_size)
                        .with_layout(WeightLayout::HeadInterleaved { heads });
                    let qkv = b.linear("query_key_value", normed, fused)?;
                    let part = |index| b.slice(qkv, index * hidden_size, hidden_size);
                    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
                    let context = b.attention(q, k, v, attention(layer))?;
                    b.linear("dense", context, Linear::new(ModuleKind::OutputProjection, hidden_size))
                })?;
                let x = b.add("attention_residual", attended, if is_residual_normed { normed } else { x })?;
                let normed = b.norm("post_attention_layernorm", x, norm)?;
                let mixed = b.scope("mlp", |b| {
                    let up =
                        b.linear("dense_h_to_4h", normed, Linear::new(ModuleKind::MlpUp, 4 * hidden_size))?;
                    let active =
                        b.activation("gelu_impl", ModuleKind::MlpActivation, ActivationKind::GeluTanh, up)?;
                    b.linear("dense_4h_to_h", active, Linear::new(ModuleKind::MlpDown, hidden_size))
                })?;
                b.add("mlp_residual", mixed, if is_residual_normed { normed } else { x })
            })?;
        }
        Ok((b.norm("ln_f", x, norm)?, table))
    })?;
    b.hidden_state(x);
    let logits = language_model_head(&mut b, x, table, vocab_size, is_tied)?;
    Ok(b.finish(OutputKind::NextToken, logits)?)
}
