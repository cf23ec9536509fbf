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

/// More than any machine holds, and a model that has no room at all.
#[test]
fn runs_that_do_not_fit() {
    let cpu = ["--device", "cpu"];
    let run = |arguments: &[&str]| refused(&[arguments, &cpu].concat());
    for arguments in [
        &["bench", "model", "demo:gpt2", "--batch", "1000000"][..],
        &["bench", "model", "demo:distilbert", "--batch", "1000000"],
        &["bench", "model", "demo:gpt2", "--batch", "1000000", "--kv-cache", "int8", "--prompt", "200"],
    ] {
        let sentence = run(arguments);
        assert!(sentence.contains(" GB beside the weights and only "), "{sentence}");
    }
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    for command in ["profile", "plan"] {
        let sentence = run(&[command, "demo:gpt2", "--batch", "1000000", "--out", out]);
        assert!(sentence.contains(" GB beside the weights and only "), "{sentence}");
    }
    assert!(run(&["bench", "model", "demo:gpt2", "--prompt", "1000000"]).contains("the context holds"));
    assert!(run(&["bench", "kernels", "--only", "unheard-of"]).contains("--only unheard-of"));
    assert!(run(&["profile", "demo:gpt2", "--context", "0", "--out", out]).contains("--context 0"));
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

/// A file whose metadata lies, in numbers that are there and in texts that are too long to be what they claim.
#[test]
fn lying_gguf_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let model = path.to_str().unwrap();
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/gguf/llama-llama3.gguf");
    let whole = fs::read(whole).unwrap();
    let find = |text: &str| whole.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    // Behind a key come four bytes of type and the value.
    let with = |key: &str, offset: usize, value: &[u8]| {
        let (mut file, at) = (whole.clone(), find(key) + key.len() + offset);
        file[at..at + value.len()].copy_from_slice(value);
        file
    };
    let most = u32::MAX.to_le_bytes();
    for (key, value) in [
        ("llama.block_count", most),
        ("llama.embedding_length", most),
        ("llama.feed_forward_length", most),
        ("llama.attention.head_count", most),
        ("llama.attention.head_count", [0; 4]),
        ("llama.attention.head_count_kv", [0; 4]),
        ("llama.attention.layer_norm_rms_epsilon", f32::NAN.to_le_bytes()),
        ("llama.rope.freq_base", f32::NAN.to_le_bytes()),
    ] {
        fs::write(&path, with(key, 4, &value)).unwrap();
        let sentence = refused(&["generate", model, "the cat"]);
        assert!(sentence.len() < 500, "{key}: {sentence}");
    }
    // A list of 2^61 tokens, a text of 2^63 bytes, a key of 2^40.
    let list = with("tokenizer.ggml.tokens", 8, &(1u64 << 61).to_le_bytes());
    let text = with("tokenizer.ggml.model", 4, &(1u64 << 63).to_le_bytes());
    let mut key = whole.clone();
    key[24..32].copy_from_slice(&(1u64 << 40).to_le_bytes());
    // As many tensors, and as many pairs, as 64 bits count.
    let (mut tensors, mut pairs) = (whole.clone(), whole.clone());
    tensors[8..16].fill(0xFF);
    pairs[16..24].fill(0xFF);
    for file in [list, text, key, tensors, pairs] {
        fs::write(&path, file).unwrap();
        assert!(refused(&["generate", model, "the cat"]).contains("is not a readable GGUF file"));
    }
    // A megabyte of one letter where a name of an architecture is due.
    let (at, bomb) = (find("general.architecture") + 24, "x".repeat(1 << 20));
    let length = u64::from_le_bytes(*whole[at..].first_chunk().unwrap()) as usize;
    let size = (bomb.len() as u64).to_le_bytes();
    let file = [&whole[..at], &size, bomb.as_bytes(), &whole[at + 8 + length..]].concat();
    fs::write(&path, file).unwrap();
    assert!(refused(&["generate", model, "the cat"]).len() < 500);
}

/// Sizes that no file holds, in the header of a quantized checkpoint.
#[test]
fn lying_quantized_models() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let model = out.to_str().unwrap();
    let written = joulewise(&["quantize", "demo:gpt2", "--strategy", "nvfp4", "--out", model]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    let path = out.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&whole[8..8 + length]).unwrap();
    let run = ["generate", model, "The film", "--strategy", "nvfp4", "--device", "cpu"];
    let with = |tensor: &str, key: &str, value: serde_json::Value| {
        let mut header = header.clone();
        header[tensor][key] = value;
        let header = header.to_string();
        let size = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&size, header.as_bytes(), &whole[8 + length..]].concat()).unwrap();
        refused(&run)
    };
    let name = |part: &str| format!("transformer.h.0.mlp.c_fc.{part}");
    let huge = serde_json::json!([u64::MAX, 2]);
    for part in ["weight_packed", "weight_scale", "weight_global_scale"] {
        assert!(with(&name(part), "shape", huge.clone()).contains("model.safetensors"));
        assert!(with(&name(part), "dtype", "F64".into()).contains("model.safetensors"));
        assert!(
            with(&name(part), "data_offsets", serde_json::json!([0, 1u64 << 60]))
                .contains("model.safetensors")
        );
    }
    // Scales of the matrix and of its blocks that are no numbers.
    for (part, bytes) in
        [("weight_global_scale", &[0xFF; 4][..]), ("weight_global_scale", &[0; 4]), ("weight_scale", &[0x7F])]
    {
        let offset = header[name(part)]["data_offsets"][0].as_u64().unwrap() as usize;
        let (mut file, at) = (whole.clone(), 8 + length + offset);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, file).unwrap();
        assert!(refused(&run).contains("transformer.h.0.mlp.c_fc"), "{part}");
    }
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
    assert!(refused(&["generate", "demo:distilbert", "x"]).contains("not a language model"));
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
    assert!(refused(&["verify", "demo:gpt2", "--strategy", "int7"]).contains("int8-dynamic"));
}

/// A command, and its options that take counts, numbers that may be 0, and figures above 0.
struct Numbers<'a> {
    command: &'a [&'a str],
    counts: &'a [&'a str],
    numbers: &'a [&'a str],
    figures: &'a [&'a str],
}

/// Every number that the program takes, with values of which it has to say what it expects.
#[test]
fn numbers_that_mean_nothing() {
    const NO_NUMBERS: [&str; 5] = ["-1", "x", "", "1e99", "18446744073709551616"];
    let of_commands = [
        Numbers {
            command: &["plan"],
            counts: &[
                "--texts",
                "--verify-texts",
                "--batch",
                "--tokens",
                "--rounds",
                "--threads",
                "--context",
            ],
            numbers: &["--generate", "--random-plans", "--seed"],
            figures: &["--max-loss", "--max-bytes", "--max-seconds", "--time-limit"],
        },
        Numbers {
            command: &["profile", "demo:gpt2"],
            counts: &["--batch", "--tokens", "--trials", "--iterations"],
            numbers: &["--replays", "--seed"],
            figures: &["--target-ci", "--time-limit"],
        },
        Numbers {
            command: &["study"],
            counts: &["--rounds", "--threads"],
            numbers: &["--seed"],
            figures: &["--seconds"],
        },
        Numbers {
            command: &["generate", "demo:gpt2", "x"],
            counts: &["--top-k"],
            numbers: &["--max-tokens", "--seed"],
            figures: &[],
        },
        Numbers {
            command: &["bench", "model", "demo:gpt2"],
            counts: &["--batch", "--prompt"],
            numbers: &["--generate"],
            figures: &["--seconds"],
        },
    ];
    for Numbers { command, counts, numbers, figures } in of_commands {
        let refuse = |option: &str, value: &str, expected: &str| {
            let sentence = refused(&[command, &[option, value]].concat());
            assert!(sentence.starts_with(&format!("error: {option} {value}: expected ")), "{sentence}");
            assert!(sentence.contains(expected), "{sentence}");
        };
        for option in counts {
            refuse(option, "0", "a whole number from 1 to ");
            NO_NUMBERS.iter().for_each(|value| refuse(option, value, "a whole number from 1 to "));
        }
        for option in numbers {
            NO_NUMBERS.iter().for_each(|value| refuse(option, value, "a whole number from 0 to "));
        }
        for option in figures {
            for value in ["0", "-0.5", "x", "", "nan", "inf", "-1e999"] {
                refuse(option, value, " above 0");
            }
        }
    }
    assert!(refused(&["verify", "demo:gpt2", "--threads", "1025"]).contains("from 1 to 1024"));
    assert!(refused(&["verify", "demo:gpt2", "--bound", "-1"]).contains("a number from 0 on"));
    let reprice = ["reprice", "/tmp", "--power-log", "x"];
    assert!(refused(&[&reprice[..], &["--offset", "inf"]].concat()).contains("expected seconds"));
    assert!(refused(&[&reprice[..], &["--systematic", "-0.1"]].concat()).contains("a number from 0 on"));
    // A sentence for everything else that has a value, and for what is too much for the machine or the model.
    assert!(
        refused(&["generate", "demo:gpt2", "x", "--top-p", "2"]).starts_with("error: --top-p 2: expected ")
    );
    assert!(refused(&["generate", "demo:gpt2", "x", "--temperature", "-1"]).contains("expected a number"));
    assert!(
        refused(&["profile", "demo:gpt2", "--tokens", "1000000", "--out", "/tmp"]).contains("room for: 255")
    );
}

#[test]
fn formats_of_the_cache() {
    let generate = |cache: &str| {
        let run = ["generate", "demo:gpt2", "The film", "--max-tokens", "4", "--device", "cpu", "--kv-cache"];
        joulewise(&[&run[..], &[cache]].concat())
    };
    assert_eq!(generate("int8").code, 0);
    let unknown = generate("int4");
    assert!(unknown.code == 2 && unknown.stderr.contains("f32, f16 or int8"), "{}", unknown.stderr);
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
