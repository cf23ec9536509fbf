//! Llama (Touvron et al. 2023) and what shares its layers: Yi, Mistral, Neural-Chat, Qwen2, Qwen2.5, DeepSeek-R1-Distill.
//!
//! Pre-norm with RMSNorm, rotary positions, grouped-query attention, gated MLP. The members differ in biases and
//! windows only.

use joulewise_engine::{
    Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm, OutputKind,
    PositionRule,
};

use super::rope::{Share, rope};
use super::{Head, activation, head_dim, language_model_head};
use crate::config::ModelConfig;
use crate::error::Result;

/// What one member does otherwise than the others.
struct Variant {
    /// Biases of the query, key and value projections.
    qkv_bias: bool,
    /// Bias of the projection behind attention.
    output_bias: bool,
    /// Biases of the MLP.
    mlp_bias: bool,
    /// Sliding window of each layer.
    windows: Vec<Option<usize>>,
}

/// `llama`, which is Yi's type too.
pub(super) fn llama(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    let attention_bias = config.bool_or("attention_bias", false)?;
    let windows = vec![None; config.usize("num_hidden_layers")?];
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    build(config, &Variant { qkv_bias: attention_bias, output_bias: attention_bias, mlp_bias, windows })
}

/// `mistral`: every layer has the window, 4096 where the key is absent and none where it is `null`.
pub(super) fn mistral(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    let window =
        if config.mentions("sliding_window") { config.optional_usize("sliding_window")? } else { Some(4096) };
    let windows = vec![window; config.usize("num_hidden_layers")?];
    build(config, &Variant { qkv_bias: false, output_bias: false, mlp_bias: false, windows })
}

/// `qwen2`: query, key and value have biases; windows only where switched on, per layer.
pub(super) fn qwen2(config: &ModelConfig, _: Head) -> Result<ModelGraph> {
    let layers = config.usize("num_hidden_layers")?;
    let is_windowed = config.bool_or("use_sliding_window", false)?;
    let window = config.optional_usize("sliding_window")?.filter(|_| is_windowed);
    let windows = match config.optional_strings("layer_types")? {
        Some(types) if types.len() != layers => {
            let expected = format!("one entry for each of {layers} layers");
            return Err(config.wrong_value("layer_types", &expected, types.len()));
        }
        Some(types) => types.iter().map(|kind| window.filter(|_| *kind == "sliding_attention")).collect(),
        None => {
            // Zero is meant here, so the key is not a size.
            let first = config.optional_f64("max_window_layers")?.unwrap_or(28.0);
            (0..layers).map(|layer| window.filter(|_| layer as f64 >= first)).collect()
        }
    };
    build(config, &Variant { qkv_bias: true, output_bias: false, mlp_bias: false, windows })
}

fn build(config: &ModelConfig, variant: &Variant) -> Result<ModelGraph> {
    let hidden_size = config.usize("hidden_size")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let kv_heads = config.optional_usize("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.usize("max_position_embeddings")?;
    let norm = Norm::rms(config.epsilon("rms_norm_eps", 1e-6)?);
    let activation = activation(config, "silu")?;
    let is_tied = config.bool_or("tie_word_embeddings", false)?;
    let rope = rope(config, head_dim, "rope_theta", Share::Whole)?;

    let mut b = ModelBuilder::new(vocab_size, max_positions, PositionRule::Sequential);
    let rope = b.rope(rope);
    let attention = |layer: usize| Attention {
        spec: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            window: variant.windows[layer],
            alibi_slopes: None,
        },
        rope: Some(rope),
        cache_layer: Some(layer),
    };
    let qkv = |width| Linear::new(ModuleKind::QkvProjection, width).with_bias(variant.qkv_bias);
    let up = Linear::new(ModuleKind::MlpUp, intermediate_size).with_bias(variant.mlp_bias);
    let down = Linear::new(ModuleKind::MlpDown, hidden_size).with_bias(variant.mlp_bias);
    let (x, table) = b.scope("model", |b| {
        let (mut x, table) = b.embedding("embed_tokens", IndexInput::TokenIds, vocab_size, hidden_size)?;
        for layer in 0..layers {
            b.hidden_state(x);
            x = b.block(&format!("layers.{layer}"), layer, |b| {
                let normed = b.norm("input_layernorm", x, norm)?;
                let attended = b.scope("self_attn", |b| {
                    let q = b.linear("q_proj", normed, qkv(heads * head_dim))?;
                    let k = b.linear("k_proj", normed, qkv(kv_heads * head_dim))?;
                    let v = b.linear("v_proj", normed, qkv(kv_heads * head_dim))?;
                    let context = b.attention(q, k, v, attention(layer))?;
                    let out =
                        Linear::new(ModuleKind::OutputProjection, hidden_size).with_bias(variant.output_bias);
                    b.linear("o_proj", context, out)
                })?;
                let x = b.add("attention_residual", x, attended)?;
                let normed = b.norm("post_attention_layernorm", x, norm)?;
                let mixed = b.scope("mlp", |b| {
                    let gate = b.linear("gate_proj", normed, up)?;
                    let wide = b.linear("up_proj", normed, up)?;
                    let active = b.gate("act_fn", activation, gate, wide)?;
                    b.linear("down_proj", active, down)
                })?;
                b.add("mlp_residual", x, mixed)
            })?;
        }
        Ok((b.norm("norm", x, norm)?, table))
    })?;
    b.hidden_state(x);
    let logits = language_model_head(&mut b, x, table, vocab_size, is_tied)?;
    Ok(b.finish(OutputKind::NextToken, logits)?)
}
