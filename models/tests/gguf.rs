//! GGUF files: those of `tests/gguf`, written by gguf-py, against the references of the models they were converted
//! from, and a published model that also stands beside the checkout in another form.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says where it stopped and what it skipped"
)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use joulewise_engine::{
    CpuBackend, ForwardOptions, Session, SessionOptions, Strategy, TokenBatch, WeightSource,
};
use joulewise_models::golden::Golden;
use joulewise_models::{Format, Gguf, LoadedModel, ModelSpec, load};

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn open(path: &Path) -> LoadedModel {
    load(&ModelSpec::parse(path.to_str().unwrap()).unwrap()).unwrap()
}

fn session(model: &LoadedModel) -> Session {
    let (backend, plan) = (CpuBackend::new(2), Strategy::Fp32.into());
    let weights = model.weights.as_ref();
    Session::open(&backend, model.graph.clone(), weights, &plan, SessionOptions::default()).unwrap()
}

/// The models of `tests/golden` that `generate.py` converts.
const CONVERTED: &[&str] = &[
    "llama-llama3",
    "llama-linear-old-keys",
    "llama-tied-bf16-sharded",
    "qwen2-yarn-old-keys",
    "gpt2-scaled-by-layer",
    "bert-masked-lm",
];

#[test]
fn converted_models_match_the_references_of_the_originals() {
    for name in CONVERTED {
        let model = open(&tests(&format!("gguf/{name}.gguf")));
        let golden = Golden::open(&tests(&format!("golden/{name}/golden.safetensors"))).unwrap();
        // The bound of the originals, `tests/golden.rs`: f32 sums in another order.
        let verification = golden.verify(&mut session(&model), 1e-9, |_| {}).unwrap();
        assert!(verification.passed, "{name}: {verification:?}");
    }
}

#[test]
fn tokenizers_come_from_the_metadata() {
    let encode = |name: &str, text: &str| {
        let model = open(&tests(&format!("gguf/{name}.gguf")));
        let tokenizer = model.tokenizer().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        (tokenizer.decode(&ids).unwrap(), ids)
    };
    // `he` outranks `th`, and `ca` outranks `at` and `▁c`, so the whole words never come to be; "dog" has no pieces but
    // its bytes.
    let (text, ids) = encode("llama-llama3", "the cat dog");
    assert_eq!((text.as_str(), &ids[..]), ("the cat dog", &[1, 3, 4, 10, 3, 16, 4, 3, 17, 18, 19][..]));
    assert_eq!(encode("gpt2-scaled-by-layer", "cat the<|endoftext|>").1, [17, 15, 0]);
    // Digits are cut apart by Qwen2's expression, so the pair "12" is not merged.
    assert_eq!(encode("qwen2-yarn-old-keys", "the 12").1, [9, 13, 1, 10, 11]);
    assert_eq!(encode("bert-masked-lm", "Unaffable, RUNS").1, [2, 5, 7, 6, 8, 9, 3]);
}

#[test]
fn every_block_type_decodes_as_gguf_py_does() {
    // The file is no model; its tensors are read past that.
    let checkpoint = Gguf::open_checkpoint(&tests("gguf/blocks.gguf")).unwrap();
    let (mut types, mut encodable) = (0, Vec::new());
    for name in checkpoint.names().filter(|name| !name.ends_with(".decoded")) {
        let elements = checkpoint.shape(name).unwrap().iter().product();
        let (mut got, mut expected) = (vec![0.0; elements], vec![0.0; elements]);
        checkpoint.read_f32(name, 0, &mut got).unwrap();
        checkpoint.read_f32(&format!("{name}.decoded"), 0, &mut expected).unwrap();
        assert_eq!(got, expected, "{name}");
        // A range that starts and ends within blocks.
        let mut part = [0.0; 300];
        checkpoint.read_f32(name, 45, &mut part).unwrap();
        assert_eq!(part[..], expected[45..345], "{name}");
        // The engine's own form, where it has one.
        if let Some(encoded) = checkpoint.encoded(name) {
            let encoded = encoded.unwrap();
            assert_eq!(checkpoint.info(name).unwrap().format, encoded.format);
            assert_eq!(checkpoint.block_len(name), Some(encoded.block_len));
            encoded.decode(&mut got).unwrap();
            assert_eq!(got, expected, "{name}");
            encodable.push(encoded.format);
        }
        types += 1;
    }
    encodable.sort();
    assert_eq!((types, &encodable[..]), (9, &[Format::Int4, Format::Mxfp4][..]));
}

/// A model in llama2.c's form: a header of seven i32, then f32 tensors; tokens in a file of their own, each with its
/// score and length. Layout: `export.py` and `tokenizer.py` of <https://github.com/karpathy/llama2.c>.
struct Llama2C {
    dim: usize,
    layers: usize,
    vocab_size: usize,
    values: Vec<f32>,
}

impl Llama2C {
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let header: Vec<usize> = bytes[..28]
            .as_chunks()
            .0
            .iter()
            .map(|n| i32::from_le_bytes(*n).unsigned_abs() as usize)
            .collect();
        let values = bytes[28..].as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        Llama2C { dim: header[0], layers: header[2], vocab_size: header[5], values }
    }

    /// The tensors that are one for all layers: `rows` times `cols` each, behind what came before.
    fn take(&self, at: &mut usize, rows: usize, cols: usize) -> Vec<&[f32]> {
        let size = rows * cols;
        let taken = (0..self.layers).map(|layer| &self.values[*at + layer * size..][..size]).collect();
        *at += self.layers * size;
        taken
    }
}

#[test]
fn one_model_in_two_forms() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/stories260k");
    if !folder.is_dir() {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP stories260k: {} is not there", folder.display());
        return;
    }
    let model = open(&folder.join("stories260Ktok512.gguf"));
    let original = Llama2C::open(&folder.join("stories260K.bin"));
    let (dim, vocab_size) = (original.dim, original.vocab_size);
    let read = |name: &str, size: usize| {
        let mut values = vec![0.0; size];
        model.weights.read(name, 0, &mut values).unwrap();
        values
    };
    // Every weight of both, bit by bit; llama2.c has the rows of queries and keys as GGUF does.
    let mut at = vocab_size * dim;
    assert_eq!(read("model.embed_tokens.weight", at), original.values[..at]);
    let (kv, ffn) = (dim / 2, 172);
    let stacks = [
        ("input_layernorm", 1, dim),
        ("self_attn.q_proj", dim, dim),
        ("self_attn.k_proj", kv, dim),
        ("self_attn.v_proj", kv, dim),
        ("self_attn.o_proj", dim, dim),
        ("post_attention_layernorm", 1, dim),
        ("mlp.gate_proj", ffn, dim),
        ("mlp.down_proj", dim, ffn),
        ("mlp.up_proj", ffn, dim),
    ];
    let head_dim = 8;
    for (name, rows, cols) in stacks {
        let rotated = name.ends_with("q_proj") || name.ends_with("k_proj");
        for (layer, expected) in original.take(&mut at, rows, cols).into_iter().enumerate() {
            let got = read(&format!("model.layers.{layer}.{name}.weight"), rows * cols);
            for (row, got) in got.chunks_exact(cols).enumerate() {
                let (head, d) = (row / head_dim, row % head_dim);
                let pair = head * head_dim + d % (head_dim / 2) * 2 + d / (head_dim / 2);
                let stored = if rotated { pair } else { row };
                assert_eq!(got, &expected[stored * cols..][..cols], "{name} {layer}, row {row}");
            }
        }
    }
    // Tokens: a score, a length and the text, behind the longest length.
    let tokens = std::fs::read(folder.join("tok512.bin")).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let (mut rest, mut compared) = (&tokens[4..], 0);
    for id in 0..vocab_size as u32 {
        let length = i32::from_le_bytes(*rest[4..].first_chunk().unwrap()).unsigned_abs() as usize;
        let text = std::str::from_utf8(&rest[8..8 + length]).unwrap();
        // Special tokens and bytes are spelled otherwise there.
        if id >= 259 {
            assert_eq!(tokenizer.token(id).unwrap().replace('\u{2581}', " "), text);
            compared += 1;
        }
        rest = &rest[8 + length..];
    }
    assert_eq!((compared, rest.len()), (253, 0));

    // The text that the model's card gives for greedy sampling, as far as both read it in the same context.
    let mut session = session(&model);
    let mut ids = tokenizer.encode("").unwrap();
    assert_eq!(ids, [1]);
    for _ in 0..100 {
        let batch = TokenBatch::single(&ids).unwrap();
        let output = session.forward_with(&batch, ForwardOptions::default()).unwrap();
        ids.push(joulewise_engine::greedy(output.row(0)));
    }
    let text = tokenizer.decode(&ids).unwrap();
    let mut stream = tokenizer.stream(&ids[..5]);
    let streamed: String = ids[5..].iter().filter_map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(tokenizer.decode(&ids[..5]).unwrap() + &streamed, text);
    let card = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One \
                day, she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said";
    assert!(text.starts_with(card), "{text}");
}
