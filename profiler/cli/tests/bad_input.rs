//! Whatever is wrong with the input, the program says one sentence and ends with exit code 2.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod program;

use std::fs;
use std::path::Path;

use program::joulewise;

/// Runs the program and returns the sentence.
fn refused(arguments: &[&str]) -> String {
    let run = joulewise(arguments);
    assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
    let sentence = run.stderr.trim_end();
    assert!(sentence.starts_with("error: ") && !sentence.contains('\n'), "{arguments:?}: {sentence}");
    assert!(!sentence.contains("panicked"), "{arguments:?}: {sentence}");
    sentence.to_owned()
}

#[test]
fn models_that_are_not_there() {
    assert!(refused(&["verify", "no/such/model"]).contains("demo:distilbert"));
    assert!(refused(&["verify", "demo:bert"]).contains("is no model"));
    assert!(refused(&["generate", "synth:gpt2", "hello"]).contains("no tokenizer"));
    assert!(refused(&["verify", "synth:tinybert"]).contains("golden.safetensors"));
}

#[test]
fn damaged_directories() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let model = directory.path().to_str().unwrap();
    assert!(refused(&["verify", model]).contains("no config.json"));
    fs::write(path("config.json"), "{").unwrap();
    assert!(refused(&["verify", model]).contains("not valid JSON"));
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/gpt2-wikitext2-mini");
    fs::copy(demo.join("config.json"), path("config.json")).unwrap();
    assert!(refused(&["verify", model]).contains("model.safetensors"));
    fs::copy(demo.join("model.safetensors"), path("model.safetensors")).unwrap();
    fs::write(path("config.json"), r#"{"architectures": ["UnheardOf"]}"#).unwrap();
    assert!(refused(&["verify", model]).contains("UnheardOf"));
    fs::write(path("config.json"), r#"{"architectures": ["GPT2LMHeadModel"]}"#).unwrap();
    assert!(refused(&["verify", model]).contains("has no key"));
    fs::copy(demo.join("config.json"), path("config.json")).unwrap();
    let weights = fs::read(demo.join("model.safetensors")).unwrap();
    fs::write(path("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    assert!(refused(&["verify", model]).contains("model.safetensors"));
    fs::write(path("model.safetensors"), [0xFF; 64]).unwrap();
    assert!(refused(&["verify", model]).contains("model.safetensors"));
    let config = fs::read_to_string(demo.join("config.json")).unwrap();
    fs::write(path("config.json"), config.replace("\"n_embd\": 192", "\"n_embd\": 196")).unwrap();
    fs::write(path("model.safetensors"), &weights).unwrap();
    assert!(refused(&["verify", model]).contains("the configuration says"));
    fs::write(path("config.json"), config).unwrap();
    assert!(refused(&["generate", model, "hello"]).contains("tokenizer"));
}

#[test]
fn damaged_gguf_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let model = path.to_str().unwrap();
    assert!(refused(&["generate", model, "hello"]).contains("is no model"));
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/gguf/llama-llama3.gguf");
    let whole = fs::read(whole).unwrap();
    for length in [0, 3, 100, 5000, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(refused(&["generate", model, "hello"]).contains("is not a readable GGUF file"));
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(joulewise(&["generate", model, "the cat"]).code, 0);
}

#[test]
fn quantized_models() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let out = out.to_str().unwrap();
    let quantize =
        |strategy: &str, out: &str| refused(&["quantize", "demo:gpt2", "--strategy", strategy, "--out", out]);
    assert!(quantize("nf4", out).contains("no layout for that"));
    assert!(quantize("int8", "/dev/null/x").contains("cannot write"));
    let written = joulewise(&["quantize", "demo:gpt2", "--strategy", "int4", "--out", out]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    assert!(quantize("int4", out).contains("is not empty"));
    let run = ["generate", out, "The film", "--max-tokens", "4", "--strategy", "int4", "--device", "cpu"];
    assert_eq!(joulewise(&run).code, 0);
    // A scale that is no number.
    let path = Path::new(out).join("model.safetensors");
    let mut weights = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*weights.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&weights[8..8 + length]).unwrap();
    let scale = &header["transformer.h.0.mlp.c_fc.weight_scale"]["data_offsets"][0];
    let at = 8 + length + scale.as_u64().unwrap() as usize;
    weights[at..at + 2].copy_from_slice(&[0xFF, 0x7F]);
    fs::write(&path, weights).unwrap();
    assert!(refused(&run).contains("not finite"));
}

#[test]
fn texts_and_data() {
    assert!(refused(&["generate", "demo:gpt2", ""]).contains("empty"));
    assert!(refused(&["classify", "demo:distilbert", " "]).contains("empty"));
    assert!(refused(&["classify", "demo:gpt2", "x"]).contains("not a sequence classifier"));
    assert!(refused(&["embed", "demo:gpt2", "x"]).contains("not an embedding model"));
    let long = "word ".repeat(300);
    assert!(refused(&["generate", "demo:gpt2", &long]).contains("the context holds 256"));
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data.tsv");
    let eval = |contents: &str| {
        fs::write(&data, contents).unwrap();
        refused(&["eval", "demo:distilbert", "--task", "sst2", "--data", data.to_str().unwrap()])
    };
    assert!(eval("").contains("holds no data"));
    assert!(eval("sentence\tlabel\ngood\t1\nbad\n").contains(":3: "));
    fs::remove_file(&data).unwrap();
    let missing = refused(&["eval", "demo:distilbert", "--task", "sst2", "--data", data.to_str().unwrap()]);
    assert!(missing.contains("data.tsv"), "{missing}");
    assert!(refused(&["eval", "demo:gpt2", "--task", "sst2", "--data", "x"]).contains("sequence classifier"));
    assert!(refused(&["eval", "demo:gpt2", "--task", "mnli", "--data", "x"]).contains("expected one of"));
}

#[test]
fn calibration() {
    let refuse = |text: &[&str]| refused(&[&["verify", "demo:gpt2", "--strategy", "int8"], text].concat());
    assert!(refuse(&[]).contains("--calibrate FILE"));
    assert!(refuse(&["--calibrate", "no/such/file"]).contains("cannot be read"));
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    fs::write(&text, "\n \n").unwrap();
    assert!(refuse(&["--calibrate", text.to_str().unwrap()]).contains("holds no text"));
    // What the command line itself refuses is said in clap's words, with a hint behind it.
    let unknown = joulewise(&["verify", "demo:gpt2", "--strategy", "int7"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("int8-dynamic"), "{}", unknown.stderr);
}

#[test]
fn devices_and_folders() {
    // Where there is a GPU, asking for it is no mistake.
    let run = joulewise(&["verify", "demo:gpt2", "--device", "cuda"]);
    assert!(run.code == 0 || run.code == 2 && run.stderr.contains("--device cpu"), "{}", run.stderr);
    assert!(refused(&["profile", "demo:gpt2", "--tokens", "300", "--out", "/tmp"]).contains("room for: 255"));
    let directory = tempfile::tempdir().unwrap();
    // A folder below a file can be made by nobody, not even by root.
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let folder = file.join("out");
    assert!(
        refused(&["profile", "demo:gpt2", "--out", folder.to_str().unwrap()]).contains("cannot write into")
    );
    let log = directory.path().join("power.csv");
    let out = directory.path().to_str().unwrap();
    let log = log.to_str().unwrap();
    assert!(refused(&["profile", "demo:gpt2", "--out", out, "--power-log", log]).contains("power.csv"));
}
