//! BERT (Devlin et al. 2018) and what shares its layers: TinyBERT, MiniLM, RoBERTa, XLM-RoBERTa.
//!
//! Post-norm, learned positions, token types. RoBERTa counts positions behind its padding id and classifies through
//! two linears on the first token, without a pooler.

use joulewise_engine::{
    Attention, AttentionSpec, Flow, IndexInput, Linear, ModelBuilder, ModelGraph, ModuleKind, Norm,
    OutputKind, PositionRule,
};

use super::{Head, activation, head_dim, pool};
use crate::config::ModelConfig;
use crate::error::Result;

/// `bert`.
pub(super) fn bert(config: &ModelConfig, head: Head) -> Result<ModelGraph> {
    build(config, head, "bert", PositionRule::Sequential)
}

/// `roberta` and its multilingual sister.
pub(super) fn roberta(config: &ModelConfig, head: Head) -> Result<ModelGraph> {
    let pad_id = config.pad_token_id().unwrap_or(1);
    build(config, head, "roberta", PositionRule::AfterPadding { pad_id })
}

fn build(config: &ModelConfig, head: Head, prefix: &str, positions: PositionRule) -> Result<ModelGraph> {
    if let Some(kind) = config.optional_str("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        return Err(config.unsupported("position_embedding_type", kind, "only absolute positions are done"));
    }
    if config.bool_or("is_decoder", false)? {
        return Err(config.unsupported("is_decoder", true, "this family is run as an encoder"));
    }
    let hidden_size = config.usize("hidden_size")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let layers = config.usize("num_hidden_layers")?;
    let heads = config.usize("num_attention_heads")?;
    let head_dim = head_dim(config, hidden_size, heads)?;
    let vocab_size = config.usize("vocab_size")?;
    let max_positions = config.usize("max_position_embeddings")?;
    let token_types = config.optional_usize("type_vocab_size")?.unwrap_or(2);
    let norm = Norm::layer(config.epsilon("layer_norm_eps", 1e-12)?);
    let activation = activation(config, "gelu")?;
    let labels = config.labels()?.len();

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
    let mut b = ModelBuilder::new(vocab_size, max_positions, positions);
    // A model without a head is saved without the prefix.
    let scope = if head == Head::Embedding { "" } else { prefix };
    let hidden = b.scope(scope, |b| {
        let mut x = b.scope("embeddings", |b| {
            let (words, _) = b.embedding("word_embeddings", IndexInput::TokenIds, vocab_size, hidden_size)?;
            let (types, _) =
                b.embedding("token_type_embeddings", IndexInput::TokenTypes, token_types, hidden_size)?;
            let typed = b.add("token_type_sum", words, types)?;
            let (places, _) =
                b.embedding("position_embeddings", IndexInput::Positions, max_positions, hidden_size)?;
            let placed = b.add("position_sum", typed, places)?;
            b.norm("LayerNorm", placed, norm)
        })?;
        b.hidden_state(x);
        for layer in 0..layers {
            x = b.block(&format!("encoder.layer.{layer}"), layer, |b| {
                let context = b.scope("attention.self", |b| {
                    let projection = Linear::new(ModuleKind::QkvProjection, hidden_size);
                    let q = b.linear("query", x, projection)?;
                    let k = b.linear("key", x, projection)?;
                    let v = b.linear("value", x, projection)?;
                    b.attention(q, k, v, attention.clone())
                })?;
                let attended = b.scope("attention.output", |b| {
                    let out =
                        b.linear("dense", context, Linear::new(ModuleKind::OutputProjection, hidden_size))?;
                    let sum = b.add("residual", out, x)?;
                    b.norm("LayerNorm", sum, norm)
                })?;
                let up = b.scope("intermediate", |b| {
                    let up =
                        b.linear("dense", attended, Linear::new(ModuleKind::MlpUp, intermediate_size))?;
                    b.activation("intermediate_act_fn", ModuleKind::MlpActivation, activation, up)
                })?;
                b.scope("output", |b| {
                    let down = b.linear("dense", up, Linear::new(ModuleKind::MlpDown, hidden_size))?;
                    let sum = b.add("residual", down, attended)?;
                    b.norm("LayerNorm", sum, norm)
                })
            })?;
            b.hidden_state(x);
        }
        Ok(x)
    })?;
    let (kind, output) = match head {
        Head::Embedding => (OutputKind::Embedding, pool(&mut b, config.pooling(), hidden)?),
        _ if prefix == "bert" => (OutputKind::Classes, bert_classifier(&mut b, hidden, labels)?),
        _ => (OutputKind::Classes, roberta_classifier(&mut b, hidden, labels)?),
    };
    Ok(b.finish(kind, output)?)
}

fn bert_classifier(b: &mut ModelBuilder, x: Flow, labels: usize) -> joulewise_engine::Result<Flow> {
    use joulewise_engine::ActivationKind::Tanh;
    let pooled = b.scope("bert.pooler", |b| {
        let first = b.first_token("first_token", x)?;
        let dense = b.linear("dense", first, Linear::new(ModuleKind::Pooler, x.cols()))?;
        b.activation("activation", ModuleKind::Pooler, Tanh, dense)
    })?;
    b.linear("classifier", pooled, Linear::new(ModuleKind::Head, labels))
}

fn roberta_classifier(b: &mut ModelBuilder, x: Flow, labels: usize) -> joulewise_engine::Result<Flow> {
    use joulewise_engine::ActivationKind::Tanh;
    b.scope("classifier", |b| {
        let first = b.first_token("first_token", x)?;
        let dense = b.linear("dense", first, Linear::new(ModuleKind::Head, x.cols()))?;
        let active = b.activation("activation", ModuleKind::Head, Tanh, dense)?;
        b.linear("out_proj", active, Linear::new(ModuleKind::Head, labels))
    })
}
