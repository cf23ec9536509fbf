//! Model directories with something wrong in them: one sentence that names it, never a panic.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use std::path::{Path, PathBuf};

use joulewise_models::{ModelSpec, load};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A copy of a tiny valid model that is removed with the test.
struct Copy(PathBuf);

impl Copy {
    fn new(model: &str, test: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model);
        let to = std::env::temp_dir().join(format!("joulewise-hostile-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
        Copy(to)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn edit_config(&self, key: &str, value: Value) {
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(self.file("config.json")).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    /// What loading says, without the path in front.
    fn problem(&self) -> String {
        let sentence = load(&ModelSpec::Directory(self.0.clone())).unwrap_err().to_string();
        sentence.replace(&self.0.display().to_string(), "MODEL")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn missing_files_are_named() {
    let copy = Copy::new("llama-llama3", "missing");
    assert!(load(&ModelSpec::Directory(copy.0.clone())).is_ok());
    std::fs::remove_file(copy.file("model.safetensors")).unwrap();
    assert!(copy.problem().starts_with("MODEL has no model.safetensors: "), "{}", copy.problem());
    std::fs::write(copy.file("pytorch_model.bin"), "").unwrap();
    assert!(copy.problem().contains("PyTorch pickles are not read"), "{}", copy.problem());
    std::fs::remove_file(copy.file("config.json")).unwrap();
    assert!(copy.problem().starts_with("MODEL has no config.json: "), "{}", copy.problem());
}

#[test]
fn a_missing_shard_is_named() {
    let copy = Copy::new("llama-tied-bf16-sharded", "shard");
    std::fs::remove_file(copy.file("model-00002-of-00002.safetensors")).unwrap();
    let expected = "MODEL/model.safetensors.index.json does not match its shards: \
                    shard `model-00002-of-00002.safetensors` is missing";
    assert_eq!(copy.problem(), expected);
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_named() {
    let shape = Copy::new("llama-llama3", "shape");
    shape.edit_config("vocab_size", json!(41));
    let expected = "tensor `model.embed_tokens.weight` has shape [40, 16], the configuration says [41, 16]";
    assert_eq!(shape.problem(), expected);
    let layers = Copy::new("llama-llama3", "layers");
    layers.edit_config("num_hidden_layers", json!(4));
    let expected = "MODEL/model.safetensors has no tensor `model.layers.3.input_layernorm.weight`";
    assert_eq!(layers.problem(), expected);
    let architecture = Copy::new("llama-llama3", "architecture");
    architecture.edit_config("architectures", json!(["MambaForCausalLM"]));
    assert!(architecture.problem().contains("architecture `MambaForCausalLM` is not supported"));
}

#[test]
fn a_missing_or_damaged_tokenizer_is_named() {
    let copy = Copy::new("llama-llama3", "tokenizer");
    let model = load(&ModelSpec::Directory(copy.0.clone())).unwrap();
    assert!(model.tokenizer().unwrap_err().to_string().contains("has no tokenizer.json: text needs"));
    std::fs::write(copy.file("tokenizer.model"), "").unwrap();
    assert!(model.tokenizer().unwrap_err().to_string().contains("SentencePiece models are not read"));
    std::fs::write(copy.file("tokenizer.json"), "{\"model\": 3}").unwrap();
    assert!(
        copy.problem().starts_with("MODEL/tokenizer.json is not a usable tokenizer: "),
        "{}",
        copy.problem()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Files that were cut off, or whose header was scribbled over, load or are refused.
    #[test]
    fn damaged_checkpoints_never_panic(
        keep in prop_oneof![Just(1.0), 0.0..1.0],
        scribbles in prop::collection::vec((0usize..3000, any::<u8>()), 0..4),
    ) {
        let copy = Copy::new("llama-llama3", "damage");
        let mut file = std::fs::read(copy.file("model.safetensors")).unwrap();
        for (at, byte) in scribbles {
            file[at] = byte;
        }
        file.truncate((file.len() as f64 * keep) as usize);
        std::fs::write(copy.file("model.safetensors"), &file).unwrap();
        if let Err(error) = load(&ModelSpec::Directory(copy.0.clone())) {
            let sentence = error.to_string();
            prop_assert!(!sentence.is_empty() && sentence.len() < 1000, "{}", sentence);
        }
    }
}
