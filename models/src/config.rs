//! `config.json`, in the spelling of transformers 4 and of transformers 5.
//!
//! Families ask for keys by their canonical Hugging Face name; [`KEYS`] knows the other names that single families
//! gave to the same thing (`n_embd`, `dim`: both are `hidden_size`) and how large a value may sensibly be, so that a
//! damaged file is refused before anything is allocated for it. A `null` counts as absent, as it does in
//! transformers.
//!
//! ```
//! # fn main() -> Result<(), joulewise_models::ModelError> {
//! let config = joulewise_models::ModelConfig::from_json("config.json", br#"{"model_type": "gpt2", "n_embd": 768}"#)?;
//! assert_eq!(config.usize("hidden_size")?, 768);
//! # Ok(())
//! # }
//! ```

use std::path::Path;

use joulewise_engine::Format;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::file;

/// A configuration, and the generation defaults beside it.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// What error messages call the file.
    origin: String,
    fields: Map<String, Value>,
    /// `generation_config.json`, empty where there is none.
    generation: Map<String, Value>,
    /// How an encoder without a head makes one vector of a sequence.
    pooling: Pooling,
}

/// How an encoder without a head makes one vector of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over the tokens that are not padding.
    #[default]
    Mean,
    /// The first token.
    FirstToken,
}

/// A size that several families spell differently.
struct Key {
    name: &'static str,
    /// Other spellings, looked up first: a file that has both writes the old name on purpose.
    aliases: &'static [&'static str],
    /// Largest value that is believed.
    limit: usize,
}

/// Bounds are generous multiples of the largest published models; they keep products of two sizes far from overflow.
const KEYS: &[Key] = &[
    Key { name: "vocab_size", aliases: &[], limit: 1 << 24 },
    Key { name: "hidden_size", aliases: &["n_embed", "n_embd", "dim"], limit: 1 << 20 },
    Key { name: "intermediate_size", aliases: &["n_inner", "hidden_dim"], limit: 1 << 22 },
    Key { name: "num_hidden_layers", aliases: &["n_layer", "n_layers"], limit: 1 << 10 },
    Key { name: "num_attention_heads", aliases: &["n_head", "n_heads"], limit: 1 << 12 },
    Key { name: "num_key_value_heads", aliases: &[], limit: 1 << 12 },
    Key { name: "head_dim", aliases: &[], limit: 1 << 14 },
    Key { name: "max_position_embeddings", aliases: &["n_positions"], limit: 1 << 24 },
    Key { name: "type_vocab_size", aliases: &[], limit: 1 << 16 },
    Key { name: "layer_norm_eps", aliases: &["layer_norm_epsilon"], limit: 0 },
    Key { name: "hidden_act", aliases: &["activation_function", "activation"], limit: 0 },
];

/// Bound of sizes without a row in [`KEYS`].
const DEFAULT_LIMIT: usize = 1 << 28;

/// Most classes that a classification head is believed to have.
const LABEL_LIMIT: usize = 1 << 20;

impl ModelConfig {
    /// Reads `config.json`, and `generation_config.json` and the pooling of sentence-transformers where present.
    ///
    /// # Errors
    /// When `config.json` is missing, or one of the files is not a JSON object.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        if !path.is_file() {
            return Err(ModelError::MissingFile {
                directory: directory.to_owned(),
                file: "config.json",
                advice: "a model directory has the layout of a Hugging Face repository",
            });
        }
        let mut config = Self::from_json(&path.display().to_string(), &file::read(&path)?)?;
        let generation = directory.join("generation_config.json");
        if generation.is_file() {
            config.generation = object(&generation.display().to_string(), &file::read(&generation)?)?;
        }
        let pooling = directory.join("1_Pooling").join("config.json");
        if pooling.is_file() {
            config.pooling =
                Self::from_json(&pooling.display().to_string(), &file::read(&pooling)?)?.read_pooling()?;
        }
        Ok(config)
    }

    /// Parses a configuration; `origin` names it in error messages.
    ///
    /// # Errors
    /// When `json` is not a JSON object.
    pub fn from_json(origin: &str, json: &[u8]) -> Result<Self> {
        Ok(Self::from_fields(origin, object(origin, json)?))
    }

    /// A configuration whose keys came from elsewhere; `origin` names that place in error messages.
    pub(crate) fn from_fields(origin: &str, fields: Map<String, Value>) -> Self {
        ModelConfig { origin: origin.to_owned(), fields, generation: Map::new(), pooling: Pooling::default() }
    }

    /// How an encoder without a head pools, where another file than `1_Pooling/config.json` said so.
    pub(crate) fn with_pooling(self, pooling: Pooling) -> Self {
        ModelConfig { pooling, ..self }
    }

    /// Every key and its value.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Name of the file, for error messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The class the checkpoint was saved from, such as `GPT2LMHeadModel`; `None` in old files.
    ///
    /// # Errors
    /// When `architectures` is not a list of names.
    pub fn architecture(&self) -> Result<Option<&str>> {
        let Some(value) = self.get("architectures") else { return Ok(None) };
        match value.as_array().map(|names| names.first()) {
            Some(None) => Ok(None),
            Some(Some(Value::String(name))) => Ok(Some(name)),
            _ => Err(self.wrong("architectures", "a list of class names", value)),
        }
    }

    /// `model_type`, such as `gpt2`; `None` in old files.
    ///
    /// # Errors
    /// When it is not a string.
    pub fn model_type(&self) -> Result<Option<&str>> {
        self.optional_str("model_type")
    }

    /// Number format the checkpoint was saved in: `dtype` (transformers 5) or `torch_dtype` (transformers 4).
    pub fn dtype(&self) -> Option<Format> {
        let name = self.get("dtype").or_else(|| self.get("torch_dtype"))?.as_str()?;
        match name.trim_start_matches("torch.") {
            "float32" => Some(Format::F32),
            "float16" => Some(Format::F16),
            "bfloat16" => Some(Format::Bf16),
            _ => None,
        }
    }

    /// How an encoder without a head pools; mean unless `1_Pooling/config.json` says otherwise.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether a key is there and not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether a key is there, `null` or not.
    ///
    /// For the few keys whose `null` differs from their default (`sliding_window`).
    pub fn mentions(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// A positive size.
    ///
    /// # Errors
    /// When it is missing, not a positive integer, or absurdly large.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.optional_usize(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive size that may be absent.
    ///
    /// # Errors
    /// When it is not a positive integer, or absurdly large.
    pub fn optional_usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let limit = KEYS.iter().find(|row| row.name == key).map_or(DEFAULT_LIMIT, |row| row.limit);
        match value.as_u64() {
            Some(size) if size >= 1 && size <= limit as u64 => Ok(Some(size as usize)),
            _ => Err(self.wrong(key, &format!("an integer from 1 to {limit}"), value)),
        }
    }

    /// A number that may be absent.
    ///
    /// # Errors
    /// When it is not a number.
    pub fn optional_f64(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", value))
    }

    /// A number added to a variance: positive and small.
    ///
    /// # Errors
    /// When it is not a number in `(0, 1)`.
    pub fn epsilon(&self, key: &str, default: f64) -> Result<f64> {
        match self.optional_f64(key)? {
            None => Ok(default),
            Some(eps) if eps > 0.0 && eps < 1.0 => Ok(eps),
            Some(eps) => Err(self.wrong(key, "a number between 0 and 1", &Value::from(eps))),
        }
    }

    /// A flag.
    ///
    /// # Errors
    /// When it is neither `true` nor `false`.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))
    }

    /// A string that may be absent.
    ///
    /// # Errors
    /// When it is not a string.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", value))
    }

    /// A list of numbers that may be absent.
    ///
    /// # Errors
    /// When it is not a list of numbers.
    pub fn optional_numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers =
            value.as_array().and_then(|items| items.iter().map(Value::as_f64).collect::<Option<_>>());
        numbers.map(Some).ok_or_else(|| self.wrong(key, "a list of numbers", value))
    }

    /// A list of strings that may be absent.
    ///
    /// # Errors
    /// When it is not a list of strings.
    pub fn optional_strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let strings =
            value.as_array().and_then(|items| items.iter().map(Value::as_str).collect::<Option<_>>());
        strings.map(Some).ok_or_else(|| self.wrong(key, "a list of strings", value))
    }

    /// A nested object that may be absent, to be read like a configuration of its own.
    ///
    /// # Errors
    /// When it is not an object.
    pub fn optional_object(&self, key: &str) -> Result<Option<ModelConfig>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fields = value.as_object().ok_or_else(|| self.wrong(key, "an object", value))?.clone();
        let origin = format!("{} ({key})", self.origin);
        Ok(Some(ModelConfig { origin, fields, generation: Map::new(), pooling: self.pooling }))
    }

    /// Ids that end a generation; `generation_config.json` outranks `config.json`.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        match self
            .generation
            .get("eos_token_id")
            .filter(|value| !value.is_null())
            .or_else(|| self.get("eos_token_id"))
        {
            Some(Value::Array(ids)) => ids.iter().filter_map(token_id).collect(),
            Some(id) => token_id(id).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// The id that starts a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.get("bos_token_id").and_then(token_id)
    }

    /// The id that fills short rows of a batch.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.get("pad_token_id").and_then(token_id)
    }

    /// Names of the classes, in order; two unnamed ones where the file says nothing, as in transformers.
    ///
    /// # Errors
    /// When `id2label` is not an object from the indices `0, 1, ...` to names.
    pub fn labels(&self) -> Result<Vec<String>> {
        let Some(value) = self.get("id2label") else {
            let n_labels = self.optional_usize("num_labels")?.unwrap_or(2).min(LABEL_LIMIT);
            return Ok((0..n_labels).map(|i| format!("LABEL_{i}")).collect());
        };
        let expected = "an object from class indices to names";
        let table = value.as_object().ok_or_else(|| self.wrong("id2label", expected, value))?;
        (0..table.len())
            .map(|i| {
                let name = table.get(&i.to_string()).and_then(Value::as_str);
                name.map(str::to_owned).ok_or_else(|| self.wrong("id2label", expected, value))
            })
            .collect()
    }

    /// The error for a value that is understood but cannot be done.
    pub(crate) fn unsupported(&self, key: &str, value: impl ToString, reason: &'static str) -> ModelError {
        ModelError::Unsupported {
            origin: self.origin.clone(),
            key: key.to_owned(),
            value: value.to_string(),
            reason,
        }
    }

    /// The error for a value that does not fit the others.
    pub(crate) fn wrong_value(&self, key: &str, expected: &str, got: impl ToString) -> ModelError {
        ModelError::WrongValue {
            origin: self.origin.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: got.to_string(),
        }
    }

    pub(crate) fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingKey { origin: self.origin.clone(), key: key.to_owned() }
    }

    /// The value of a key under any of its names, `null` as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        let aliases = KEYS.iter().find(|row| row.name == key).map_or(&[][..], |row| row.aliases);
        let names = aliases.iter().copied().chain([key]);
        names.filter_map(|name| self.fields.get(name)).find(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, got: &Value) -> ModelError {
        // Long values would bury the sentence.
        let got = got.to_string();
        let shown = if got.chars().count() > 60 {
            format!("{}...", got.chars().take(60).collect::<String>())
        } else {
            got
        };
        self.wrong_value(key, expected, shown)
    }

    /// `1_Pooling/config.json` of sentence-transformers.
    fn read_pooling(&self) -> Result<Pooling> {
        let chosen: Vec<&str> = self
            .fields
            .iter()
            .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == Value::Bool(true))
            .map(|(key, _)| key.as_str())
            .collect();
        match chosen[..] {
            ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
            ["pooling_mode_cls_token"] => Ok(Pooling::FirstToken),
            _ => Err(self.unsupported(
                "pooling_mode",
                chosen.join("+"),
                "only mean and first-token pooling are done",
            )),
        }
    }
}

fn object(origin: &str, json: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(json).map_err(|source| ModelError::Json { origin: origin.to_owned(), source })
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ModelConfig {
        ModelConfig::from_json("config.json", json.as_bytes()).unwrap()
    }

    #[test]
    fn sizes_answer_to_every_spelling() {
        for key in ["hidden_size", "n_embed", "n_embd", "dim"] {
            assert_eq!(config(&format!(r#"{{"{key}": 12}}"#)).usize("hidden_size").unwrap(), 12);
        }
        // GPT-2 writes `n_inner: null` for "four times the width".
        assert_eq!(config(r#"{"n_inner": null}"#).optional_usize("intermediate_size").unwrap(), None);
    }

    #[test]
    fn bad_values_are_named() {
        let missing = config("{}").usize("hidden_size").unwrap_err();
        assert_eq!(missing.to_string(), "config.json has no key `hidden_size`");
        for bad in ["\"768\"", "-1", "0", "1.5", "[768]", "1e30", "18446744073709551615"] {
            let error = config(&format!(r#"{{"hidden_size": {bad}}}"#)).usize("hidden_size").unwrap_err();
            let start = "config.json: key `hidden_size` is ";
            let end = ", expected an integer from 1 to 1048576";
            assert!(error.to_string().starts_with(start) && error.to_string().ends_with(end), "{error}");
        }
        assert!(matches!(ModelConfig::from_json("c", b"[1]"), Err(ModelError::Json { .. })));
        assert!(matches!(ModelConfig::from_json("c", b"{\"a\": "), Err(ModelError::Json { .. })));
        assert!(config(r#"{"layer_norm_eps": -1e-5}"#).epsilon("layer_norm_eps", 1e-5).is_err());
        assert!(config(r#"{"architectures": 3}"#).architecture().is_err());
    }

    #[test]
    fn both_transformers_spell_the_dtype() {
        assert_eq!(config(r#"{"torch_dtype": "float16"}"#).dtype(), Some(Format::F16));
        assert_eq!(config(r#"{"dtype": "bfloat16"}"#).dtype(), Some(Format::Bf16));
        assert_eq!(config(r#"{"dtype": null, "torch_dtype": "float32"}"#).dtype(), Some(Format::F32));
        assert_eq!(config("{}").dtype(), None);
    }

    #[test]
    fn end_of_text_may_be_a_list() {
        assert_eq!(config(r#"{"eos_token_id": 2}"#).eos_token_ids(), [2]);
        assert_eq!(config(r#"{"eos_token_id": [128001, 128009]}"#).eos_token_ids(), [128_001, 128_009]);
        assert_eq!(config(r#"{"eos_token_id": null}"#).eos_token_ids(), [] as [u32; 0]);
    }

    #[test]
    fn labels_are_ordered_by_index_not_by_position() {
        let named = config(r#"{"id2label": {"1": "POSITIVE", "0": "NEGATIVE"}}"#);
        assert_eq!(named.labels().unwrap(), ["NEGATIVE", "POSITIVE"]);
        assert_eq!(config("{}").labels().unwrap(), ["LABEL_0", "LABEL_1"]);
        assert!(config(r#"{"id2label": {"1": "a", "2": "b"}}"#).labels().is_err());
    }

    #[test]
    fn pooling_is_read_or_refused() {
        let mean = config(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#);
        assert_eq!(mean.read_pooling().unwrap(), Pooling::Mean);
        assert_eq!(
            config(r#"{"pooling_mode_cls_token": true}"#).read_pooling().unwrap(),
            Pooling::FirstToken
        );
        assert!(config(r#"{"pooling_mode_max_tokens": true}"#).read_pooling().is_err());
    }
}
