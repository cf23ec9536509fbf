//! Model families: which tensors a configuration asks for, in which order they are used.
//!
//! A family is one file and one row of `FAMILIES`. It reads sizes from the configuration and calls the engine's
//! [`ModelBuilder`] in the order of the forward pass; it knows no number format, no
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
        architectures: &[
            ("BertModel", Head::Embedding),
            ("BertForSequenceClassification", Head::Classes),
            // The encoder of a pre-training checkpoint makes embeddings; its own heads are left unread.
            ("BertForMaskedLM", Head::Embedding),
            ("BertForPreTraining", Head::Embedding),
        ],
        build: bert::bert,
    },
    Family {
        model_type: "roberta",
        architectures: &[
            ("RobertaModel", Head::Embedding),
            ("RobertaForSequenceClassification", Head::Classes),
            ("RobertaForMaskedLM", Head::Embedding),
        ],
        build: bert::roberta,
    },
    Family {
        model_type: "xlm-roberta",
        architectures: &[
            ("XLMRobertaModel", Head::Embedding),
            ("XLMRobertaForSequenceClassification", Head::Classes),
            ("XLMRobertaForMaskedLM", Head::Embedding),
        ],
        build: bert::roberta,
    },
    Family {
        model_type: "distilbert",
        architectures: &[
            ("DistilBertModel", Head::Embedding),
            ("DistilBertForSequenceClassification", Head::Classes),
            ("DistilBertForMaskedLM", Head::Embedding),
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
/// [`ModelError::UnknownArchitecture`], or what is missing, wrong or not done in the configuration.
pub fn build(config: &ModelConfig) -> Result<ModelGraph> {
    build_for(config, &|_| false)
}

/// [`build`] for a checkpoint that `has` certain tensors: they tell which head a configuration without
/// `architectures` means.
pub(crate) fn build_for(config: &ModelConfig, has: &dyn Fn(&str) -> bool) -> Result<ModelGraph> {
    let (family, head) = find(config, has)?;
    (family.build)(config, head)
}

/// Tensors that only a classification head brings, BERT's and RoBERTa's.
const CLASSIFIERS: &[&str] = &["classifier.weight", "classifier.out_proj.weight"];

fn find(config: &ModelConfig, has: &dyn Fn(&str) -> bool) -> Result<(&'static Family, Head)> {
    let unknown = |name: &str| ModelError::UnknownArchitecture {
        origin: config.origin().to_owned(),
        name: name.to_owned(),
        known: FAMILIES
            .iter()
            .flat_map(|family| family.architectures.iter().map(|(name, _)| *name))
            .collect::<Vec<_>>()
            .join(", "),
    };
    // An architecture that is named but unknown has a head that is not there; guessing another would be wrong.
    if let Some(name) = config.architecture()? {
        let row = FAMILIES.iter().find_map(|family| {
            let (_, head) = family.architectures.iter().find(|(architecture, _)| *architecture == name)?;
            Some((family, *head))
        });
        return row.ok_or_else(|| unknown(name));
    }
    // Files older than `model_type`, TinyBERT's among them, are BERT's: no other family of their time is here.
    let guess = config.has("type_vocab_size").then_some("bert");
    let name = config.model_type()?.or(guess).ok_or_else(|| config.missing("architectures"))?;
    let family = FAMILIES.iter().find(|family| family.model_type == name).ok_or_else(|| unknown(name))?;
    match family.architectures[0].1 {
        Head::Embedding if CLASSIFIERS.iter().any(|tensor| has(tensor)) => Ok((family, Head::Classes)),
        head => Ok((family, head)),
    }
}

/// The activation under `hidden_act`.
fn activation(config: &ModelConfig, default: &'static str) -> Result<ActivationKind> {
    let name = config.optional_str("hidden_act")?.unwrap_or(default);
    match name {
        "gelu" | "gelu_python" => Ok(ActivationKind::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
            Ok(ActivationKind::GeluTanh)
        }
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

    fn found(json: &str, tensors: &[&str]) -> Result<(&'static str, Head)> {
        let (family, head) = find(&config(json), &|name| tensors.contains(&name))?;
        Ok((family.model_type, head))
    }

    #[test]
    fn a_named_architecture_outranks_the_model_type() {
        let json = r#"{"architectures": ["BertForSequenceClassification"], "model_type": "gpt2"}"#;
        assert_eq!(found(json, &[]).unwrap(), ("bert", Head::Classes));
    }

    #[test]
    fn files_that_name_no_architecture_are_read_by_their_tensors() {
        assert_eq!(found(r#"{"model_type": "gpt2"}"#, &[]).unwrap(), ("gpt2", Head::NextToken));
        assert_eq!(found(r#"{"model_type": "bert"}"#, &[]).unwrap(), ("bert", Head::Embedding));
        assert_eq!(
            found(r#"{"type_vocab_size": 2}"#, &["classifier.weight"]).unwrap(),
            ("bert", Head::Classes)
        );
    }

    #[test]
    fn unknown_architectures_are_named_with_the_known_ones() {
        let error =
            found(r#"{"architectures": ["T5Model"], "model_type": "bert"}"#, &[]).unwrap_err().to_string();
        assert!(error.contains("`T5Model`") && error.contains("LlamaForCausalLM"), "{error}");
        assert_eq!(found("{}", &[]).unwrap_err().to_string(), "config.json has no key `architectures`");
        assert!(found(r#"{"model_type": "t5"}"#, &[]).is_err());
    }

    #[test]
    fn what_would_compute_something_else_is_refused() {
        let cases = [
            (r#"{"model_type": "gpt2", "add_cross_attention": true}"#, "`add_cross_attention` = true"),
            (
                r#"{"model_type": "bloom", "slow_but_exact": true, "pretraining_tp": 4}"#,
                "`slow_but_exact` = true",
            ),
            (r#"{"model_type": "bert", "is_decoder": true}"#, "`is_decoder` = true"),
            (
                r#"{"model_type": "bert", "position_embedding_type": "relative_key"}"#,
                "`position_embedding_type`",
            ),
        ];
        for (json, expected) in cases {
            let error = build(&config(json)).unwrap_err().to_string();
            assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}");
            assert!(error.contains("is not supported"), "{error}");
        }
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
