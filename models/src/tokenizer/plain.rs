//! Vocabularies from before `tokenizer.json`: BERT's `vocab.txt`, and the `vocab.json` and `merges.txt` of GPT-2 and
//! RoBERTa. Neither says how text is split or which tokens surround it; that is known from the family.

use std::path::Path;

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{ModelError, Result};

/// Tokens that are never split, where the vocabulary has them.
const BERT_SPECIAL: &[&str] = &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const BYTE_LEVEL_SPECIAL: &[&str] = &["<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// BERT's tokenizer over the lines of a `vocab.txt`.
pub(super) fn word_pieces(origin: &str, vocab: &[u8], lowercase: bool) -> Result<Tokenizer> {
    let unusable = |source| ModelError::Tokenizer { origin: origin.to_owned(), source };
    let pieces = WordPiece::read_bytes(vocab).map_err(unusable)?;
    let id = |token: &str| {
        let found = pieces.get(token).map(|id| (token.to_owned(), *id));
        found.ok_or_else(|| unusable(format!("it has no line `{token}`").into()))
    };
    id("[UNK]")?;
    let surroundings = BertProcessing::new(id("[SEP]")?, id("[CLS]")?);
    let mut tokenizer = Tokenizer::new(WordPiece::builder().vocab(pieces).build().map_err(unusable)?);
    tokenizer
        // Accents are stripped exactly where letters are lowered.
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(surroundings))
        .with_decoder(Some(WordPieceDecoder::default()));
    add_special(&mut tokenizer, BERT_SPECIAL);
    Ok(tokenizer)
}

/// Byte-level pairs. RoBERTa's vocabulary is told from GPT-2's by its `<s>` and `</s>`, which surround a text.
pub(super) fn byte_pairs(vocab: &Path, merges: &Path) -> Result<Tokenizer> {
    let unusable = |source| ModelError::Tokenizer { origin: vocab.display().to_string(), source };
    let path = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| unusable("its path is not UTF-8".into()))
    };
    let model = BPE::from_file(&path(vocab)?, &path(merges)?).build().map_err(unusable)?;
    let mut tokenizer = Tokenizer::new(model);
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    let id = |token: &str| tokenizer.token_to_id(token).map(|id| (token.to_owned(), id));
    if let Some((start, end)) = id("<s>").zip(id("</s>")) {
        tokenizer.with_post_processor(Some(RobertaProcessing::new(end, start).add_prefix_space(false)));
    }
    add_special(&mut tokenizer, BYTE_LEVEL_SPECIAL);
    Ok(tokenizer)
}

fn add_special(tokenizer: &mut Tokenizer, tokens: &[&str]) {
    let known = tokens.iter().filter(|token| tokenizer.token_to_id(token).is_some());
    let known: Vec<AddedToken> = known.map(|token| AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(&known);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##able\n##aff\n,\nruns\nÄh\nah\n";

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    }

    #[test]
    fn word_pieces_are_split_and_surrounded() {
        let tokenizer = word_pieces("vocab.txt", VOCAB.as_bytes(), true).unwrap();
        assert_eq!(ids(&tokenizer, "Unaffable, RUNS"), [2, 5, 7, 6, 8, 9, 3]);
        assert_eq!(ids(&tokenizer, "äh [MASK] nobody"), [2, 11, 4, 1, 3]);
        assert_eq!(tokenizer.decode(&[2, 5, 7, 6, 8, 9, 3], true).unwrap(), "unaffable, runs");
        let cased = word_pieces("vocab.txt", VOCAB.as_bytes(), false).unwrap();
        assert_eq!(ids(&cased, "Äh RUNS"), [2, 10, 1, 3]);
        let pair = tokenizer.encode(("runs", "un"), true).unwrap();
        assert_eq!((pair.get_ids(), pair.get_type_ids()), (&[2, 9, 3, 5, 3][..], &[0, 0, 0, 1, 1][..]));
    }

    #[test]
    fn vocabularies_without_special_tokens_are_refused() {
        let error = word_pieces("vocab.txt", b"[UNK]\n[CLS]\nword\n", true).unwrap_err().to_string();
        assert_eq!(error, "vocab.txt is not a usable tokenizer: it has no line `[SEP]`");
        assert!(word_pieces("vocab.txt", b"\xff\xfe", true).is_err());
        assert!(
            byte_pairs(Path::new("/nonexistent/vocab.json"), Path::new("/nonexistent/merges.txt")).is_err()
        );
    }
}
