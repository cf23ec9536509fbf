//! Which family a GGUF file is of, what its tensors are called there, and its settings in the words of `config.json`.
//!
//! An architecture is one row of `ARCHITECTURES`. Names: `gguf-py/gguf/constants.py` and `tensor_mapping.py` of
//! llama.cpp.

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Pooling};
use crate::error::{ModelError, Result};

/// Names in the file and in the family, without `.weight` and `.bias`.
type Names = &'static [(&'static str, &'static str)];

/// A row of the table.
pub(super) struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// `model_type` of the family.
    model_type: &'static str,
    /// What stands before and behind the blocks.
    outer: Names,
    /// Prefix of the family's blocks; `blk.` in the file.
    block_prefix: &'static str,
    /// What is in a block.
    block: Names,
    /// Whether query and key rows are ordered for rotating neighbouring dimensions.
    rotates_neighbours: bool,
    /// Key of the norms' epsilon, in the file and in the family.
    epsilon: (&'static str, &'static str),
    /// Pre-tokenizer of byte pairs where the file names none.
    pub(super) pre_tokenizer: Option<&'static str>,
}

/// Llama and Qwen2 name alike.
const LLAMA_OUTER: Names =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const LLAMA_BLOCK: Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        outer: LLAMA_OUTER,
        block_prefix: "model.layers.",
        block: LLAMA_BLOCK,
        rotates_neighbours: true,
        epsilon: ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        pre_tokenizer: None,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        outer: LLAMA_OUTER,
        block_prefix: "model.layers.",
        block: LLAMA_BLOCK,
        rotates_neighbours: false,
        epsilon: ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        pre_tokenizer: Some("qwen2"),
    },
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        outer: &[
            ("token_embd", "transformer.wte"),
            ("position_embd", "transformer.wpe"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        block_prefix: "transformer.h.",
        block: &[
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ],
        rotates_neighbours: false,
        epsilon: ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        pre_tokenizer: Some("gpt-2"),
    },
    // Its conversion leaves pooler and classifier out: an encoder that embeds.
    Architecture {
        name: "bert",
        model_type: "bert",
        outer: &[
            ("token_embd", "embeddings.word_embeddings"),
            ("token_types", "embeddings.token_type_embeddings"),
            ("position_embd", "embeddings.position_embeddings"),
            ("token_embd_norm", "embeddings.LayerNorm"),
        ],
        block_prefix: "encoder.layer.",
        block: &[
            ("attn_q", "attention.self.query"),
            ("attn_k", "attention.self.key"),
            ("attn_v", "attention.self.value"),
            ("attn_output", "attention.output.dense"),
            ("attn_output_norm", "attention.output.LayerNorm"),
            ("ffn_up", "intermediate.dense"),
            ("ffn_down", "output.dense"),
            ("layer_output_norm", "output.LayerNorm"),
        ],
        rotates_neighbours: false,
        epsilon: ("attention.layer_norm_epsilon", "layer_norm_eps"),
        pre_tokenizer: None,
    },
];

/// The row of a file's architecture.
///
/// # Errors
/// When it names none, or one without a row.
pub(super) fn find(metadata: &Metadata) -> Result<&'static Architecture> {
    let key = "general.architecture";
    let name = metadata.text(key)?.ok_or_else(|| missing(metadata, key))?;
    ARCHITECTURES.iter().find(|row| row.name == name).ok_or_else(|| ModelError::UnknownArchitecture {
        origin: metadata.origin().to_owned(),
        name: name.chars().take(60).collect(),
        known: ARCHITECTURES.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
    })
}

/// What a matrix of a family is called in a GGUF file, without `.weight`; `None` where no architecture has it. A model
/// that does not name its family is of the first whose names fit.
pub(crate) fn stored_name(model_type: Option<&str>, name: &str) -> Option<String> {
    // Families that are one architecture there.
    let model_type = match model_type {
        Some("mistral" | "yi") => Some("llama"),
        other => other,
    };
    let mut rows = ARCHITECTURES.iter().filter(|row| model_type.is_none_or(|own| row.model_type == own));
    rows.find_map(|row| row.stored_name(name))
}

fn missing(metadata: &Metadata, key: &str) -> ModelError {
    ModelError::MissingKey { origin: metadata.origin().to_owned(), key: key.to_owned() }
}

impl Architecture {
    /// What the family calls a tensor, and the number of heads where its rows are in the order of llama.cpp's rotary
    /// embedding. A tensor that the family does not know keeps its name.
    pub(super) fn tensor(&self, metadata: &Metadata, name: &str) -> Result<(String, Option<usize>)> {
        let known = self.family_name(name);
        let heads = match (self.rotates_neighbours, &known) {
            (true, Some(name)) if name.contains(".q_proj.") => Some("attention.head_count"),
            (true, Some(name)) if name.contains(".k_proj.") => Some("attention.head_count_kv"),
            _ => None,
        };
        let heads = match heads {
            Some(key) => match self.size(metadata, key)? {
                Some(heads) => Some(heads),
                // As many key heads as query heads where the file does not say.
                None => self.size(metadata, "attention.head_count")?,
            },
            None => None,
        };
        Ok((known.unwrap_or_else(|| name.to_owned()), heads.map(|heads| heads as usize)))
    }

    fn family_name(&self, name: &str) -> Option<String> {
        let (stem, ending) =
            name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
        let found = |names: Names, stem: &str| names.iter().find(|(file, _)| *file == stem).map(|row| row.1);
        if let Some((layer, part)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            return Some(format!("{}{layer}.{}.{ending}", self.block_prefix, found(self.block, part)?));
        }
        Some(format!("{}.{ending}", found(self.outer, stem)?))
    }

    /// The other way round, of a matrix and without its ending.
    fn stored_name(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix("bert.").filter(|_| self.name == "bert").unwrap_or(name);
        let found = |names: Names, name: &str| names.iter().find(|(_, own)| *own == name).map(|row| row.0);
        let in_block = name.strip_prefix(self.block_prefix).and_then(|rest| rest.split_once('.'));
        match in_block {
            Some((layer, part)) => Some(format!("blk.{layer}.{}", found(self.block, part)?)),
            None => found(self.outer, name).map(str::to_owned),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn size(&self, metadata: &Metadata, key: &str) -> Result<Option<u64>> {
        metadata.unsigned(&self.key(key))
    }

    /// The settings, as `config.json` would have them; their values are checked there.
    pub(super) fn config(&self, metadata: &Metadata, tensors: &Checkpoint) -> Result<ModelConfig> {
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
        if self.size(metadata, "expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(ModelError::Unsupported {
                origin: metadata.origin().to_owned(),
                key: self.key("expert_count"),
                value: "above 0".to_owned(),
                reason: "mixtures of experts are not run",
            });
        }
        let sizes = [
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("block_count", "num_hidden_layers"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("context_length", "max_position_embeddings"),
            ("attention.sliding_window", "sliding_window"),
            // Rotary heads may have a size of their own.
            ("attention.key_length", "head_dim"),
        ];
        for (key, name) in sizes {
            if let Some(size) = self.size(metadata, key)? {
                set(name, json!(size));
            }
        }
        // A file writes a window for Mistral, which is a llama there, and for no other model of these.
        let windowed = self.name == "llama" && self.size(metadata, "attention.sliding_window")?.is_some();
        set("model_type", json!(if windowed { "mistral" } else { self.model_type }));
        let (key, name) = self.epsilon;
        set(name, json!(metadata.float(&self.key(key))?.ok_or_else(|| missing(metadata, &self.key(key)))?));

        // The tables say how many rows they have; a vocabulary is sometimes padded.
        let rows = |name: &str| tensors.shape(name).and_then(|shape| shape.first().copied());
        let table = self.outer[0].1;
        let words = format!("{table}.weight");
        if let Some(vocab_size) = rows(&words) {
            set("vocab_size", json!(vocab_size));
        }
        if let Some(types) = rows("embeddings.token_type_embeddings.weight") {
            set("type_vocab_size", json!(types));
        }
        let has = |name: &str| tensors.shape(name).is_some();
        set("tie_word_embeddings", json!(!has("lm_head.weight")));
        set("attention_bias", json!(has("model.layers.0.self_attn.o_proj.bias")));
        set("mlp_bias", json!(has("model.layers.0.mlp.up_proj.bias")));
        if let Some(base) = metadata.float(&self.key("rope.freq_base"))? {
            set("rope_theta", json!(base));
        }
        if let Some(scaling) = self.rope_scaling(metadata, tensors)? {
            set("rope_scaling", scaling);
        }
        for (key, name) in [("bos", "bos_token_id"), ("padding", "pad_token_id")] {
            if let Some(id) = metadata.token_id(key)? {
                set(name, json!(id));
            }
        }
        let mut ends = Vec::new();
        for key in ["eos", "eot", "eom"] {
            ends.extend(metadata.token_id(key)?);
        }
        set("eos_token_id", json!(ends));
        let config = ModelConfig::from_fields(metadata.origin(), config);
        match self.size(metadata, "pooling_type")? {
            // 0 is "none"; then, as without the key, whoever wants one vector of a text gets the mean.
            None | Some(0 | 1) => Ok(config.with_pooling(Pooling::Mean)),
            Some(2) => Ok(config.with_pooling(Pooling::FirstToken)),
            Some(other) => {
                Err(config.unsupported("pooling_type", other, "only mean and first-token pooling are done"))
            }
        }
    }

    /// The stretch of rotary frequencies: a tensor of divisors, or the settings of `linear` and `yarn`.
    fn rope_scaling(&self, metadata: &Metadata, tensors: &Checkpoint) -> Result<Option<Value>> {
        if let Some(shape) = tensors.shape("rope_freqs.weight") {
            let count = shape.iter().product();
            let mut divisors = vec![0.0; count];
            tensors.read_f32("rope_freqs.weight", 0, &mut divisors)?;
            return Ok(Some(json!({ "rope_type": "divisors", "divisors": divisors })));
        }
        let number = |key: &str| metadata.float(&self.key(key));
        // `scale_linear` is what it was called before there were kinds.
        let old = number("rope.scale_linear")?.filter(|factor| *factor != 1.0);
        let kind = metadata.text(&self.key("rope.scaling.type"))?.unwrap_or(match old {
            Some(_) => "linear",
            None => "none",
        });
        let factor = match number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => old,
        };
        match kind {
            "none" => Ok(None),
            "yarn" => {
                let mut scaling = Map::new();
                scaling.insert("rope_type".to_owned(), json!("yarn"));
                let keys = [
                    ("rope.scaling.original_context_length", "original_max_position_embeddings"),
                    ("rope.scaling.yarn_beta_fast", "beta_fast"),
                    ("rope.scaling.yarn_beta_slow", "beta_slow"),
                ];
                for (key, name) in keys {
                    if let Some(value) = number(key)? {
                        scaling.insert(name.to_owned(), json!(value));
                    }
                }
                if let Some(factor) = factor {
                    scaling.insert("factor".to_owned(), json!(factor));
                    // Here it multiplies the usual temperature; there it replaces it.
                    if let Some(attention) = number("rope.scaling.attn_factor")? {
                        let temperature = attention * (1.0 + 0.1 * factor.ln());
                        scaling.insert("attention_factor".to_owned(), json!(temperature));
                    }
                }
                Ok(Some(Value::Object(scaling)))
            }
            kind => Ok(Some(json!({ "rope_type": kind, "factor": factor }))),
        }
    }
}
