//! Tokenizers against published tokenizations, where those stand beside the checkout.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says where it stopped and what it skipped"
)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use joulewise_models::{Gguf, Tokenizer};
use serde_json::Value;

fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tokenizers").join(name);
    if !path.is_dir() {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP {name}: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// Texts and ids in two files of the same order; the texts are separated by a line of their own.
fn check_listed(tokenizer: &Tokenizer, stem: &Path) {
    let read = |extension: &str| std::fs::read_to_string(format!("{}.{extension}", stem.display())).unwrap();
    let texts = read("inp");
    let texts: Vec<&str> =
        texts.trim_end_matches("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n").collect();
    let ids = read("out");
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    let mut checked = 0;
    for (text, expected) in texts.iter().zip(&ids) {
        assert_eq!(&tokenizer.encode_plain(text).unwrap(), expected, "{text:?}");
        checked += 1;
    }
    assert!(checked > 40);
}

#[test]
fn bert_vocabulary() {
    let Some(path) = data("bert-uncased") else { return };
    let tokenizer = Tokenizer::load(&path).unwrap().unwrap();
    check_listed(&tokenizer, &path.join("ggml-vocab-bert-bge.gguf"));
    let read = |name: &str| -> Vec<Value> {
        serde_json::from_slice(&std::fs::read(path.join("golden").join(name)).unwrap()).unwrap()
    };
    let (questions, expected) = (read("question_tokens.json"), read("tokenized_questions.json"));
    assert!(questions.len() > 10_000 && questions.len() == expected.len());
    for (question, expected) in questions.iter().zip(&expected) {
        let text = question["original"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(tokenizer.encode_plain(text).unwrap(), expected, "{text}");
    }
    let ids = tokenizer.encode("Which team won?").unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (101, 102));
}

#[test]
fn gpt2_vocabulary_and_merges() {
    let Some(path) = data("gpt2") else { return };
    let directory = std::env::temp_dir().join(format!("joulewise-gpt2-tokenizer-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(path.join("encoder.json"), directory.join("vocab.json")).unwrap();
    std::fs::copy(path.join("vocab.bpe"), directory.join("merges.txt")).unwrap();
    let tokenizer = Tokenizer::load(&directory).unwrap().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    check_listed(&tokenizer, &path.join("ggml-vocab-gpt-2.gguf"));
    assert_eq!(tokenizer.encode("Hello<|endoftext|>").unwrap(), [15496, 50256]);
    let text = "Größe: 10 µm\n\tund 日本 🙂";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
}

#[test]
fn sentence_pieces_as_tokenizer_json() {
    let Some(path) = data("phi-3-mini") else { return };
    let tokenizer = Tokenizer::load(&path).unwrap().unwrap();
    check_listed(&tokenizer, &path.join("ggml-vocab-phi-3.gguf"));
}

#[test]
fn vocabularies_in_gguf_files() {
    for (folder, file) in [
        ("bert-uncased", "ggml-vocab-bert-bge.gguf"),
        ("gpt2", "ggml-vocab-gpt-2.gguf"),
        ("phi-3-mini", "ggml-vocab-phi-3.gguf"),
    ] {
        let Some(path) = data(folder) else { continue };
        let path = path.join(file);
        check_listed(&Gguf::open_tokenizer(&path).unwrap().unwrap(), &path);
    }
}
