//! Text to token ids and back.
//!
//! `tokenizer.json` describes itself completely and is preferred; directories from before it have the plain
//! vocabularies that [`plain`] understands. Which special tokens surround a text is the post-processor's business, with
//! one correction: `add_bos_token` of `tokenizer_config.json`, which `tokenizer.json` does not always reflect.

mod plain;

use std::path::Path;

use serde_json::Value;
use tokenizers::tokenizer::{EncodeInput, Encoding};
use tokenizers::{PostProcessor, TruncationDirection};

use crate::error::{ModelError, Result};
use crate::file;

/// A text's encoding, ready for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// 0 for the first text and its special tokens, 1 for the second.
    pub token_types: Vec<u32>,
}

/// A tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The id that starts a text, and whether it shall, where the settings say.
    bos: Option<(u32, bool)>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("bos", &self.bos).finish()
    }
}

impl Tokenizer {
    /// The tokenizer of a model directory, `None` where there is none.
    ///
    /// # Errors
    /// When a tokenizer's file is damaged.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let settings = settings(directory)?;
        let flag = |key: &str, default| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
        let path = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
        let inner = if let Some(json) = path("tokenizer.json") {
            from_json(&json.display().to_string(), &file::read(&json)?)?
        } else if let Some(vocab) = path("vocab.txt") {
            plain::word_pieces(
                &vocab.display().to_string(),
                &file::read(&vocab)?,
                flag("do_lower_case", true),
            )?
        } else if let Some((vocab, merges)) = path("vocab.json").zip(path("merges.txt")) {
            plain::byte_pairs(&vocab, &merges)?
        } else {
            return Ok(None);
        };
        let bos_token =
            settings.get("bos_token").and_then(|token| token.get("content").unwrap_or(token).as_str());
        let bos = bos_token
            .and_then(|token| inner.token_to_id(token))
            .zip(settings.get("add_bos_token").and_then(Value::as_bool));
        Ok(Some(Tokenizer { inner, bos }))
    }

    /// Reads a `tokenizer.json` that is in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn from_json(origin: &str, json: &[u8]) -> Result<Self> {
        Ok(Tokenizer { inner: from_json(origin, json)?, bos: None })
    }

    /// The tokenizer as a `tokenizer.json`.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(ModelError::Tokenize)
    }

    /// Ids with the special tokens that the model expects around a text.
    ///
    /// # Errors
    /// When the tokenizer's own model refuses the text (a word it has no piece for, and no unknown token).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_truncated(text, usize::MAX)
    }

    /// At most `max_tokens` ids, cut so that special tokens at the end survive.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_truncated(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        let mut encoding = self.plain_encoding(text)?;
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        encoding.truncate(max_tokens.saturating_sub(special), 0, TruncationDirection::Right);
        let encoding = self.inner.post_process(encoding, None, true).map_err(ModelError::Tokenize)?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some((bos, wanted)) = self.bos {
            match (ids.first() == Some(&bos), wanted) {
                (false, true) => ids.insert(0, bos),
                (true, false) => drop(ids.remove(0)),
                _ => {}
            }
        }
        ids.truncate(max_tokens);
        Ok(ids)
    }

    /// Ids of the text alone, without special tokens around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.plain_encoding(text)?.get_ids().to_vec())
    }

    /// Two texts as one input, as BERT reads sentence pairs.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded> {
        let encoding = self.inner.encode_fast((first, second), true).map_err(ModelError::Tokenize)?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), token_types: encoding.get_type_ids().to_vec() })
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(ModelError::Tokenize)
    }

    /// Text of ids that arrive one by one behind those of `prompt`.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        // Longer than any character is in bytes; the first token of a text reads differently from all others.
        let window = prompt[prompt.len().saturating_sub(4)..].to_vec();
        TextStream { tokenizer: self, told: window.len(), window }
    }

    /// Id of a token, special or not.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn plain_encoding(&self, text: &str) -> Result<Encoding> {
        self.inner.encode_fast(EncodeInput::Single(text.into()), false).map_err(ModelError::Tokenize)
    }
}

/// Text that grows token by token; holds back bytes until they are whole characters, or until what follows shows that
/// they are none.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens that are decoded again: how a token reads depends on the one before.
    window: Vec<u32>,
    /// Tokens at the start of the window whose text has been handed out.
    told: usize,
}

impl TextStream<'_> {
    /// The text that `id` completes, if any.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses it.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let before = self.tokenizer.decode(&self.window[..self.told])?;
        self.window.push(id);
        let after = self.tokenizer.decode(&self.window)?;
        if after.ends_with(char::REPLACEMENT_CHARACTER) || after.len() <= before.len() {
            return Ok(None);
        }
        // A byte that turns out to belong to no character changes how its neighbours read.
        let shared = before.chars().zip(after.chars()).take_while(|(a, b)| a == b);
        let shared: usize = shared.map(|(character, _)| character.len_utf8()).sum();
        self.window.drain(..self.told);
        self.told = self.window.len();
        Ok(Some(after[shared..].to_owned()))
    }
}

/// `tokenizer_config.json`, empty where there is none.
fn settings(directory: &Path) -> Result<Value> {
    let path = directory.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&file::read(&path)?)
        .map_err(|source| ModelError::Json { origin: path.display().to_string(), source })
}

/// Lengths are the caller's business: saved padding and truncation are dropped.
fn from_json(origin: &str, json: &[u8]) -> Result<tokenizers::Tokenizer> {
    let unusable = |source| ModelError::Tokenizer { origin: origin.to_owned(), source };
    let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(unusable)?;
    inner.with_padding(None).with_truncation(None).map_err(unusable)?;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer of seven tokens, with a saved truncation that must not count.
    const JSON: &str = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false,
                  "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ã": 5, "¤": 6}, "merges": ["a b"]}
    }"#;

    fn tokenizer(bos: Option<(u32, bool)>) -> Tokenizer {
        Tokenizer { bos, ..Tokenizer::from_json("tokenizer.json", JSON.as_bytes()).unwrap() }
    }

    #[test]
    fn saved_lengths_do_not_count() {
        let tokenizer = tokenizer(None);
        assert_eq!(tokenizer.encode("ab a b").unwrap(), [3, 4, 1, 4, 2]);
        assert_eq!(tokenizer.encode_truncated("ab a b", 2).unwrap(), [3, 4]);
        assert_eq!(tokenizer.decode(&[0, 3, 4, 1]).unwrap(), "ab a");
        assert_eq!((tokenizer.vocab_size(), tokenizer.token_id("ab")), (7, Some(3)));
    }

    #[test]
    fn the_start_token_follows_the_settings() {
        assert_eq!(tokenizer(Some((0, true))).encode("ab").unwrap(), [0, 3]);
        assert_eq!(tokenizer(Some((0, true))).encode("<s>ab").unwrap(), [0, 3]);
        assert_eq!(tokenizer(Some((0, false))).encode("<s>ab").unwrap(), [3]);
        assert_eq!(tokenizer(Some((0, true))).encode_truncated("ab ab", 2).unwrap(), [0, 3]);
    }

    #[test]
    fn a_stream_waits_for_whole_characters() {
        let tokenizer = tokenizer(None);
        let mut stream = tokenizer.stream(&[]);
        let pieces: Vec<_> = [3, 5, 6].map(|id| stream.push(id).unwrap()).into();
        assert_eq!(pieces, [Some("ab".to_owned()), None, Some("ä".to_owned())]);
        // The second half of a character without the first.
        let pieces: Vec<_> = [6, 3, 4, 1].map(|id| stream.push(id).unwrap()).into();
        assert_eq!(pieces, [None, Some("\u{FFFD}ab".to_owned()), Some(" ".to_owned()), Some("a".to_owned())]);
    }

    #[test]
    fn damaged_files_are_named() {
        for json in ["", "{}", "[1, 2]", r#"{"model": {"type": "BPE"}}"#] {
            let error = Tokenizer::from_json("t/tokenizer.json", json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("t/tokenizer.json is not a usable tokenizer: "), "{error}");
        }
    }
}
