//! GGUF files with something wrong in them: one sentence that names it, never a panic, never memory for what is not
//! there.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use std::path::Path;

use joulewise_models::{Gguf, families};
use proptest::prelude::*;

fn committed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)).unwrap()
}

/// Everything that loading does with a file, and reading every tensor of it.
fn load(bytes: Vec<u8>) -> Result<(), String> {
    let gguf = Gguf::from_bytes("x.gguf", bytes).map_err(|error| error.to_string())?;
    let graph = families::build(&gguf.config).map_err(|error| error.to_string())?;
    for weight in &graph.weights {
        let Some(shape) = gguf.checkpoint.shape(&weight.name) else { continue };
        let mut values = vec![0.0; shape.iter().product()];
        gguf.checkpoint.read_f32(&weight.name, 0, &mut values).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A file of these metadata pairs and tensors, each in its own bytes, and `data` bytes of zeros.
fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    file.extend(pairs.iter().chain(tensors).flatten());
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn architecture(name: &str) -> Vec<u8> {
    pair("general.architecture", 8, &text(name))
}

fn tensor(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((sizes.len() as u32).to_le_bytes());
    bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn lies_get_one_sentence() {
    let llama = || architecture("llama");
    let list = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    let counts = |tensors: u64, pairs: u64| {
        [b"GGUF\x03\0\0\0".to_vec(), tensors.to_le_bytes().to_vec(), pairs.to_le_bytes().to_vec()].concat()
    };
    let with_tensor = |tensor: Vec<u8>, data: usize| file(&[llama()], &[tensor], data);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "ends within the magic number"),
        (b"GGML\x03\0\0\0".to_vec(), "does not start with `GGUF`"),
        (b"GGUF\x01\0\0\0".to_vec(), "of version 1, 2 and 3 are read"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (b"GGUF\x03\0\0\0\x01".to_vec(), "ends within the number of tensors"),
        (counts(u64::MAX, 0), "claims 18446744073709551615 tensors in the 8 bytes that are left"),
        (counts(0, 1 << 40), "claims 1099511627776 metadata pairs in the 0 bytes"),
        (file(&[], &[], 0), "no key `general.architecture`"),
        (file(&[architecture("mamba")], &[], 0), "`mamba` is not supported, expected one of llama"),
        (file(&[llama(), llama()], &[], 0), "metadata key `general.architecture` occurs twice"),
        (file(&[pair("a", 13, &[])], &[], 0), "`a` is of type 13"),
        (file(&[pair("a\nb", 13, &[])], &[], 0), "has control characters"),
        (with_tensor(tensor("t\nu", &[4], 0, 0), 16), "has control characters"),
        (file(&[architecture("a\nb")], &[], 0), r"`a\nb` is not supported"),
        (file(&[pair("a", 8, &u64::MAX.to_le_bytes())], &[], 0), "bytes of the value of `a`"),
        (file(&[pair("a", 9, &list(4, u64::MAX / 4))], &[], 0), "elements of `a`"),
        (file(&[pair("a", 9, &list(8, 1 << 50))], &[], 0), "elements of `a`"),
        (file(&[pair("a", 9, &list(9, 1))], &[], 0), "a list of lists"),
        (file(&[pair("general.alignment", 4, &3u32.to_le_bytes())], &[], 0), "aligned to 3 bytes"),
        (file(&[pair("general.alignment", 8, &text("x"))], &[], 0), "is not a whole number"),
        (file(&[pair("general.architecture", 8, b"\x01\0\0\0\0\0\0\0\xff")], &[], 0), "is not UTF-8"),
        (with_tensor(tensor("t", &[4, 2], 0, 0), 31), "takes 32 bytes from byte 0 of the data, which has 31"),
        (with_tensor(tensor("t", &[4], 0, !31), 16), "takes 16 bytes from byte 18446744073709551584"),
        (with_tensor(tensor("t", &[4], 0, 1 << 40), 16), "takes 16 bytes from byte 1099511627776"),
        (with_tensor(tensor("t", &[4], 0, 8), 64), "not aligned to 32 bytes"),
        (with_tensor(tensor("t", &[1; 5], 0, 0), 64), "has 5 sizes"),
        (with_tensor(tensor("t", &[1 << 40, 1 << 40], 0, 0), 64), "no whole number of F32 blocks"),
        (with_tensor(tensor("t", &[1 << 62, 0], 0, 0), 64), "no whole number of F32 blocks"),
        (with_tensor(tensor("t", &[31], 8, 0), 64), "no whole number of Q8_0 blocks"),
        (with_tensor(tensor("t", &[u64::MAX], 8, 0), 64), "no whole number of Q8_0 blocks"),
        (with_tensor(tensor("t", &[256], 10, 0), 84), "stored as Q2_K, which is not read"),
        (with_tensor(tensor("t", &[256], 4000, 0), 84), "stored as type 4000"),
        (
            file(&[llama()], &[tensor("t", &[4], 0, 0), tensor("t", &[4], 0, 32)], 64),
            "tensor `t` occurs twice",
        ),
        (
            file(&[llama()], &[tensor("t", &[16], 0, 0), tensor("u", &[16], 0, 32)], 128),
            "tensors `t` and `u` overlap",
        ),
        (
            file(
                &[llama(), pair("llama.attention.head_count", 4, &0u32.to_le_bytes())],
                &[tensor("blk.0.attn_q.weight", &[4, 4], 0, 0)],
                64,
            ),
            "has 4 rows for 0 heads",
        ),
        (file(&[llama(), pair("llama.expert_count", 4, &8u32.to_le_bytes())], &[], 0), "mixtures of experts"),
        (file(&[llama()], &[], 0), "no key `llama.attention.layer_norm_rms_epsilon`"),
    ];
    for (bytes, expected) in cases {
        let got = load(bytes).unwrap_err();
        assert!(got.contains(expected), "{got} should contain: {expected}");
        assert!(!got.contains('\n') && got.len() < 400, "{got}");
    }
}

#[test]
fn tokenizers_that_do_not_fit_together_are_refused() {
    // A list: its type, how many, and the elements.
    let list = |kind: u32, elements: Vec<Vec<u8>>| {
        let count = elements.len() as u64;
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), &elements.concat()].concat()
    };
    let texts = |values: &[&str]| list(8, values.iter().map(|value| text(value)).collect());
    let numbers = |values: &[f32]| list(6, values.iter().map(|x| x.to_le_bytes().to_vec()).collect());
    let read = |mut pairs: Vec<Vec<u8>>| {
        let epsilon = pair("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
        pairs.extend([architecture("llama"), epsilon]);
        Gguf::from_bytes("x.gguf", file(&pairs, &[], 0))
    };
    let refused = |pairs: Vec<Vec<u8>>| read(pairs).unwrap_err().to_string();
    let model = |name: &str| pair("tokenizer.ggml.model", 8, &text(name));
    let tokens = |list: &[&str]| pair("tokenizer.ggml.tokens", 9, &texts(list));
    let scores = |list: &[f32]| pair("tokenizer.ggml.scores", 9, &numbers(list));
    assert!(refused(vec![model("llama")]).contains("is not a list of tokens"));
    assert!(refused(vec![model("llama"), tokens(&[])]).contains("is not a list of tokens"));
    assert!(refused(vec![model("llama"), tokens(&["a"])]).contains("is not a score for each token"));
    assert!(refused(vec![model("llama"), tokens(&["a"]), scores(&[])]).contains("a score for each token"));
    assert!(
        refused(vec![model("t5"), tokens(&["a"])]).contains("`tokenizer.ggml.model` = t5 is not supported")
    );
    assert!(refused(vec![model("gpt2"), tokens(&["a"])]).contains("`tokenizer.ggml.pre` is not named"));
    let pre = |name: &str| pair("tokenizer.ggml.pre", 8, &text(name));
    assert!(refused(vec![model("gpt2"), pre("odd"), tokens(&["a"])]).contains("no such way to cut a text"));
    let merges = pair("tokenizer.ggml.merges", 9, &texts(&["a b"]));
    let unfit = refused(vec![model("gpt2"), pre("gpt-2"), tokens(&["a"]), merges]);
    assert!(unfit.contains("x.gguf is not a usable tokenizer"), "{unfit}");
    assert!(refused(vec![model("bert"), tokens(&["a"])]).contains("unknown_token_id` is not a token"));
    let bos = |id: u32| pair("tokenizer.ggml.bos_token_id", 4, &id.to_le_bytes());
    let beyond = refused(vec![model("llama"), tokens(&["a"]), scores(&[0.0]), bos(1)]);
    assert!(beyond.contains("`tokenizer.ggml.bos_token_id` is not in the vocabulary"), "{beyond}");
    assert!(read(vec![model("llama"), tokens(&["a"]), scores(&[0.0]), bos(u32::MAX)]).is_ok());
    // A token as long as a book is a bomb, not a word.
    let bomb = "x".repeat(2000);
    assert!(refused(vec![model("llama"), tokens(&[&bomb]), scores(&[0.0])]).contains("at most 1024 bytes"));
}

#[test]
fn a_scale_that_is_no_number_is_found() {
    let mut bytes = file(
        &[architecture("gpt2"), pair("gpt2.attention.layer_norm_epsilon", 6, &1e-5f32.to_le_bytes())],
        &[tensor("token_embd.weight", &[32, 2], 8, 0)],
        68,
    );
    let end = bytes.len();
    bytes[end - 34..end - 32].copy_from_slice(&[0x00, 0x7E]);
    let checkpoint = Gguf::from_bytes("x.gguf", bytes).unwrap().checkpoint;
    let mut values = [0.0; 32];
    checkpoint.read_f32("transformer.wte.weight", 0, &mut values).unwrap();
    let error = checkpoint.read_f32("transformer.wte.weight", 32, &mut values).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `transformer.wte.weight` cannot be decoded: row 1 decodes to a value that is not finite"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = committed("qwen2-yarn-old-keys.gguf");
    assert_eq!(load(whole.clone()), Ok(()));
    // Any cut loses bytes of the last tensor or of what is before it; steps that divide nothing.
    for length in (0..whole.len()).step_by(37) {
        let error = load(whole[..length].to_vec()).unwrap_err();
        assert!(error.contains("x.gguf"), "{length}: {error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load([b"GGUF\x03\0\0\0", &bytes[..]].concat());
    }

    /// Valid files with some bytes of their header replaced.
    #[test]
    fn damage_never_panics(
        which in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes =
            committed(["llama-llama3.gguf", "gpt2-scaled-by-layer.gguf", "bert-masked-lm.gguf"][which]);
        // The header takes the first few thousand bytes.
        for (at, value) in damage {
            bytes[at.index(4000)] = value;
        }
        let _ = load(bytes);
    }
}
