//! Model families: which tensors a configuration asks for, in which order they are used.
//!
//! A family is one file and one row of [`FAMILIES`]. It reads sizes from the configuration and calls the engine's
//! [`ModelBuilder`](joulewise_engine::ModelBuilder) in the order of the forward pass; it knows no number format, no
//! device, and does no arithmetic on weights. Module paths are the checkpoint's own.

mod bert;
mod bloom;
mod distilbert;
mod gpt2;
mod gpt_neox;
mod llama;
mod rope;

use joulewise_engine::{ActivationKind, Flow, Linear, ModelBuilder, ModelGraph, ModuleKind, WeightId};

use crate::config::{ModelConfig, Pooling};
use crate::error::{ModelError, Result};

/// What stands behind the last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// A language-model head.
    NextToken,
    /// A sequence classifier.
    Classes,
    /// Pooling only: one vector per sequence.
    Embedding,
}

/// A row of the registry.
struct Family {
    /// `model_type` of the configuration.
    model_type: &'static str,
    /// Classes of transformers and the head each has; the first one is assumed where a file names none.
    architectures: &'static [(&'static str, Head)],
    /// Lists the steps.
    build: fn(&ModelConfig, Head) -> Result<ModelGraph>,
}

const FAMILIES: &[Family] = &[
    Family {
        model_type: "bert",
        architectures: &[("BertModel", Head::Embedding), ("BertForSequenceClassification", Head::Classes)],
        build: bert::bert,
    },
    Family {
        model_type: "roberta",
        architectures: &[
            ("RobertaModel", Head::Embedding),
            ("RobertaForSequenceClassification", Head::Classes),
        ],
        build: bert::roberta,
    },
    Family {
        model_type: "xlm-roberta",
        architectures: &[
            ("XLMRobertaModel", Head::Embedding),
            ("XLMRobertaForSequenceClassification", Head::Classes),
        ],
        build: bert::roberta,
    },
    Family {
        model_type: "distilbert",
        architectures: &[
            ("DistilBertModel", Head::Embedding),
            ("DistilBertForSequenceClassification", Head::Classes),
        ],
        build: distilbert::build,
    },
    Family {
        model_type: "gpt2",
        architectures: &[("GPT2LMHeadModel", Head::NextToken), ("GPT2Model", Head::NextToken)],
        build: gpt2::build,
    },
    Family {
        model_type: "bloom",
        architectures: &[("BloomForCausalLM", Head::NextToken), ("BloomModel", Head::NextToken)],
        build: bloom::build,
    },
    Family {
        model_type: "gpt_neox",
        architectures: &[("GPTNeoXForCausalLM", Head::NextToken)],
        build: gpt_neox::build,
    },
    Family {
        model_type: "llama",
        architectures: &[("LlamaForCausalLM", Head::NextToken)],
        build: llama::llama,
    },
    Family {
        model_type: "mistral",
        architectures: &[("MistralForCausalLM", Head::NextToken)],
        build: llama::mistral,
    },
    Family {
        model_type: "qwen2",
        architectures: &[("Qwen2ForCausalLM", Head::NextToken)],
        build: llama::qwen2,
    },
];

/// The steps of the model that a configuration describes.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`], or what is missing or wrong in the configuration.
pub fn build(config: &ModelConfig) -> Result<ModelGraph> {
    let (family, head) = find(config)?;
    (family.build)(config, head)
}

fn find(config: &ModelConfig) -> Result<(&'static Family, Head)> {
    let named = config.architecture()?;
    let model_type = config.model_type()?;
    let by_architecture = named.and_then(|name| {
        FAMILIES.iter().find_map(|family| {
            let (_, head) = family.architectures.iter().find(|(architecture, _)| *architecture == name)?;
            Some((family, *head))
        })
    });
    let by_type = || {
        let family = FAMILIES.iter().find(|family| Some(family.model_type) == model_type)?;
        Some((family, family.architectures[0].1))
    };
    // An architecture that is named but unknown has a head that is not there; guessing another would be wrong.
    let found = if named.is_some() { by_architecture } else { by_type() };
    found.ok_or_else(|| ModelError::UnknownArchitecture {
        origin: config.origin().to_owned(),
        name: named.or(model_type).unwrap_or("(none)").to_owned(),
        known: FAMILIES
            .iter()
            .flat_map(|family| family.architectures.iter().map(|(name, _)| *name))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// The activation under `hidden_act`.
fn activation(config: &ModelConfig, default: &'static str) -> Result<ActivationKind> {
    let name = config.optional_str("hidden_act")?.unwrap_or(default);
    match name {
        "gelu" => Ok(ActivationKind::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Ok(ActivationKind::GeluTanh),
        "quick_gelu" => Ok(ActivationKind::GeluSigmoid),
        "relu" => Ok(ActivationKind::Relu),
        "silu" | "swish" => Ok(ActivationKind::Silu),
        "tanh" => Ok(ActivationKind::Tanh),
        other => Err(config.unsupported("hidden_act", other, "no such activation is known")),
    }
}

/// Elements of a head: explicit, or the width shared out evenly.
fn head_dim(config: &ModelConfig, hidden_size: usize, heads: usize) -> Result<usize> {
    match config.optional_usize("head_dim")? {
        Some(head_dim) => Ok(head_dim),
        None if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
        None => {
            let expected = format!("a divisor of hidden_size = {hidden_size}");
            Err(config.wrong_value("num_attention_heads", &expected, heads))
        }
    }
}

/// Pooling of an encoder without a head, as the checkpoint's sentence-transformers files have it.
fn pool(b: &mut ModelBuilder, pooling: Pooling, x: Flow) -> joulewise_engine::Result<Flow> {
    match pooling {
        Pooling::Mean => b.mean_pool("pooling", x),
        Pooling::FirstToken => b.first_token("pooling", x),
    }
}

/// The language-model head, tied to the token table or of its own.
fn language_model_head(
    b: &mut ModelBuilder,
    x: Flow,
    table: WeightId,
    vocab_size: usize,
    is_tied: bool,
) -> joulewise_engine::Result<Flow> {
    let rows = b.logit_rows("logit_rows", x)?;
    if is_tied {
        return b.tied_head("lm_head", rows, table);
    }
    b.linear("lm_head", rows, Linear::new(ModuleKind::Head, vocab_size).with_bias(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ModelConfig {
        ModelConfig::from_json("config.json", json.as_bytes()).unwrap()
    }

    #[test]
    fn a_named_architecture_outranks_the_model_type() {
        let (family, head) =
            find(&config(r#"{"architectures": ["BertForSequenceClassification"], "model_type": "gpt2"}"#))
                .unwrap();
        assert_eq!((family.model_type, head), ("bert", Head::Classes));
        let (family, head) = find(&config(r#"{"model_type": "gpt2"}"#)).unwrap();
        assert_eq!((family.model_type, head), ("gpt2", Head::NextToken));
    }

    #[test]
    fn unknown_architectures_are_named_with_the_known_ones() {
        let error = find(&config(r#"{"architectures": ["T5Model"], "model_type": "bert"}"#)).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("`T5Model`") && text.contains("LlamaForCausalLM"), "{text}");
        assert!(find(&config("{}")).is_err());
    }

    #[test]
    fn rows_do_not_share_names() {
        let mut names: Vec<&str> =
            FAMILIES.iter().flat_map(|family| family.architectures.iter().map(|(name, _)| *name)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
