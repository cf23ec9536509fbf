//! The tokenizer in a GGUF file's metadata, written as the `tokenizer.json` that the model's authors would have
//! published; the `tokenizers` crate does the rest.
//!
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Three kinds are there: pairs merged by score
//! (SentencePiece, `llama`), byte-level pairs merged by rank (`gpt2`), and longest pieces of words (`bert`).

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// Longest token that is believed; SentencePiece makes them of 16 characters, runs of blanks get longer.
const MAX_TOKEN_BYTES: usize = 1024;

/// Type numbers of tokens that are never split; the others are made of characters.
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// What SentencePiece writes for a blank.
const BLANK: char = '\u{2581}';

/// A row of the pre-tokenizers of byte pairs.
struct PreTokenizer {
    /// `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Cuts a text before byte pairs are merged within the cuts.
    split: Split,
    /// Whether the text is brought into Unicode's composed form.
    composes: bool,
    /// Whether a word that is a token is taken whole, whatever its merges.
    ignores_merges: bool,
    /// Whether a text starts with the token for it where the file does not say.
    adds_bos: bool,
}

/// How a text is cut.
enum Split {
    /// GPT-2's expression, which the byte-level step has built in.
    Gpt2,
    /// The same, digit by digit.
    Gpt2Digits,
    /// An expression.
    Pattern(&'static str),
}

/// The expressions are those of the models' own `tokenizer.json`.
const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["gpt-2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe", "trillion"],
        split: Split::Gpt2,
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell"],
        split: Split::Gpt2Digits,
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        composes: false,
        ignores_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        composes: true,
        ignores_merges: false,
        adds_bos: false,
    },
];

/// The tokenizer of a file, `None` where it has none. `default_pre_tokenizer` is for byte pairs without a name.
///
/// # Errors
/// When its parts do not fit together, or it is of a kind that is not here.
pub(super) fn load(metadata: &Metadata, default_pre_tokenizer: Option<&str>) -> Result<Option<Tokenizer>> {
    let key = "tokenizer.ggml.model";
    let Some(model) = metadata.text(key)?.filter(|model| !matches!(*model, "none" | "no_vocab")) else {
        return Ok(None);
    };
    let vocabulary = Vocabulary::read(metadata)?;
    let json = match model {
        "llama" => vocabulary.scored_pairs()?,
        "gpt2" => vocabulary.byte_pairs(default_pre_tokenizer)?,
        "bert" => vocabulary.word_pieces()?,
        other => {
            return Err(ModelError::Unsupported {
                origin: metadata.origin().to_owned(),
                key: key.to_owned(),
                value: other.chars().take(60).collect(),
                reason: "llama, gpt2 and bert are read",
            });
        }
    };
    Tokenizer::from_json(metadata.origin(), json.to_string().as_bytes()).map(Some)
}

/// Tokens and their types.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<&'a str>,
    /// As long as `tokens`.
    types: Vec<u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.texts(key)?.filter(|tokens| !tokens.is_empty());
        let tokens = tokens.ok_or_else(|| metadata.wrong(key, "a list of tokens"))?;
        if tokens.iter().any(|token| token.len() > MAX_TOKEN_BYTES) {
            return Err(metadata.wrong(key, &format!("a list of tokens of at most {MAX_TOKEN_BYTES} bytes")));
        }
        let key = "tokenizer.ggml.token_type";
        let types = match metadata.numbers(key)? {
            Some(types) if types.len() == tokens.len() => types.iter().map(|kind| *kind as u32).collect(),
            Some(_) => return Err(metadata.wrong(key, "as long as the list of tokens")),
            None => vec![1; tokens.len()],
        };
        Ok(Vocabulary { metadata, tokens, types })
    }

    /// A special token by the middle of its key: its text and id.
    fn special(&self, name: &str) -> Result<Option<(&'a str, u64)>> {
        let Some(id) = self.metadata.token_id(name)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        let key = format!("tokenizer.ggml.{name}_token_id");
        token.map(|token| Some((*token, id))).ok_or_else(|| self.metadata.wrong(&key, "in the vocabulary"))
    }

    fn needed(&self, name: &str) -> Result<(&'a str, u64)> {
        let found = self.special(name)?;
        found.ok_or_else(|| self.metadata.wrong(&format!("tokenizer.ggml.{name}_token_id"), "a token"))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.metadata.flag(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
    }

    /// Tokens to ids, each spelled as `spell` has it.
    fn ids(&self, spell: impl Fn(&str) -> String) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (spell(token), json!(id))).collect()
    }

    /// Tokens that are never split.
    fn added_tokens(&self) -> Vec<Value> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        tokens
            .filter(|(_, (token, kind))| !token.is_empty() && (UNKNOWN..=USER_DEFINED).contains(*kind))
            .map(|(id, (token, kind))| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": *kind != USER_DEFINED})
            })
            .collect()
    }

    /// Puts the tokens that start and end a text around it.
    fn surroundings(&self, adds_bos: bool) -> Result<Value> {
        let bos = if self.flag("add_bos_token", adds_bos)? { self.special("bos")? } else { None };
        let eos = if self.flag("add_eos_token", false)? { self.special("eos")? } else { None };
        Ok(template(bos, eos, true))
    }

    /// SentencePiece's pairs: the pair whose union has the highest score is merged first, which is a list of merges
    /// in the order of scores.
    fn scored_pairs(&self) -> Result<Value> {
        let key = "tokenizer.ggml.scores";
        let scores = self.metadata.numbers(key)?.filter(|scores| scores.len() == self.tokens.len());
        let scores = scores.ok_or_else(|| self.metadata.wrong(key, "a score for each token"))?;
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if matches!(self.types[id], UNKNOWN | CONTROL | USER_DEFINED) {
                continue;
            }
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            merges.extend(
                cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
                    .map(|pair| (scores[id], id, pair)),
            );
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let merges: Vec<_> = merges.into_iter().map(|(_, _, (left, right))| json!([left, right])).collect();
        let prefix = self.flag("add_space_prefix", true)?;
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": BLANK}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.special("unknown")?.map(|(token, _)| token);
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added_tokens(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.surroundings(true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
                      "vocab": self.ids(str::to_owned), "merges": merges},
        }))
    }

    /// Byte-level pairs, merged in the order of the list.
    fn byte_pairs(&self, default_pre_tokenizer: Option<&str>) -> Result<Value> {
        let key = "tokenizer.ggml.pre";
        let named = self.metadata.text(key)?.filter(|name| *name != "default").or(default_pre_tokenizer);
        let name = named.ok_or_else(|| self.metadata.wrong(key, "named"))?;
        let row = PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name));
        let row = row.ok_or_else(|| ModelError::Unsupported {
            origin: self.metadata.origin().to_owned(),
            key: key.to_owned(),
            value: name.chars().take(60).collect(),
            reason: "no such way to cut a text is known",
        })?;
        let key = "tokenizer.ggml.merges";
        let merges = self.metadata.texts(key)?.ok_or_else(|| self.metadata.wrong(key, "there"))?;
        let byte_level = |uses_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": uses_regex});
        let pre_tokenizer = match row.split {
            Split::Gpt2 => byte_level(true),
            Split::Gpt2Digits => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true)]}),
            Split::Pattern(pattern) => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                byte_level(false)]}),
        };
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added_tokens(),
            "normalizer": row.composes.then(|| json!({"type": "NFC"})),
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.surroundings(row.adds_bos)?,
            "decoder": byte_level(true),
            "model": {"type": "BPE", "ignore_merges": row.ignores_merges,
                      "vocab": self.ids(str::to_owned), "merges": merges},
        }))
    }

    /// BERT's pieces. The file marks the first piece of a word where `vocab.txt` marks the others.
    fn word_pieces(&self) -> Result<Value> {
        let spell = |token: &str| match token.strip_prefix(BLANK) {
            Some(start) => start.to_owned(),
            None if token.starts_with('[') && token.ends_with(']') => token.to_owned(),
            None => format!("##{token}"),
        };
        let (unknown, _) = self.needed("unknown")?;
        // Some files call the two that surround a text by their usual names, some by BERT's.
        let start = match self.special("cls")? {
            Some(start) => start,
            None => self.needed("bos")?,
        };
        let end = self.needed("seperator")?;
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added_tokens(),
            // The format has no flag for models that keep case: llama.cpp lowers it always.
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": template(Some(start), Some(end), false),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": self.ids(spell)},
        }))
    }
}

/// A post-processor that puts `start` before a text and `end` behind it. A second text follows; it has a start of its
/// own where `repeats_start`.
fn template(start: Option<(&str, u64)>, end: Option<(&str, u64)>, repeats_start: bool) -> Value {
    let special = |token: Option<(&str, u64)>, type_id: u32| {
        token.map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": type_id}}))
    };
    let text = |id: &str, type_id: u32| Some(json!({"Sequence": {"id": id, "type_id": type_id}}));
    let listed = |parts: Vec<Option<Value>>| Value::Array(parts.into_iter().flatten().collect());
    let second_start = start.filter(|_| repeats_start);
    let single = vec![special(start, 0), text("A", 0), special(end, 0)];
    let mut pair = single.clone();
    pair.extend([special(second_start, 1), text("B", 1), special(end, 1)]);
    let tokens: Map<String, Value> = [start, end]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": listed(single), "pair": listed(pair), "special_tokens": tokens})
}
