//! Configurations with any key replaced by anything: the answer is a graph or one sentence, never a panic.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

mod directories;

use std::sync::LazyLock;

use directories::golden_directories;
use joulewise_models::synthetic::PRESETS;
use joulewise_models::{ModelConfig, families};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Valid configurations of every family, in the spelling of both generations.
static VALID: LazyLock<Vec<Map<String, Value>>> = LazyLock::new(|| {
    let texts = golden_directories()
        .into_iter()
        .map(|directory| std::fs::read(directory.join("config.json")).unwrap());
    let mut configs: Vec<Map<String, Value>> =
        texts.map(|text| serde_json::from_slice(&text).unwrap()).collect();
    configs.sort_by_key(|config| config.get("model_type").map(Value::to_string));
    configs
});

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![-2i64..20, Just(i64::MAX), Just(i64::MIN), Just(1 << 20), Just(1 << 40)]
            .prop_map(Value::from),
        Just(Value::from(u64::MAX)),
        prop_oneof![Just(0.0), Just(-1.0), Just(0.3), Just(1e-300), Just(1e300)].prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
        prop_oneof!["yarn", "linear", "llama3", "longrope", "relu", "relative_key", "sliding_attention"]
            .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["sliding_attention", "full_attention"])),
        Just(json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1})),
        Just(json!({"rope_type": "llama3", "factor": 1e-300})),
        Just(json!({"0": "a", "2": "b"})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_key_may_be_anything(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(hostile())), 1..4),
        nested in prop::option::of((any::<prop::sample::Index>(), hostile())),
    ) {
        let mut config = which.get(&VALID).clone();
        if let (Some((key, value)), Some(rope)) =
            (nested, config.get_mut("rope_parameters").and_then(Value::as_object_mut))
        {
            let keys: Vec<String> = rope.keys().cloned().collect();
            rope.insert(key.get(&keys).clone(), value);
        }
        let keys: Vec<String> = config.keys().cloned().collect();
        for (key, value) in changes {
            match value {
                Some(value) => drop(config.insert(key.get(&keys).clone(), value)),
                None => drop(config.remove(key.get(&keys))),
            }
        }
        let text = serde_json::to_vec(&config).unwrap();
        let config = ModelConfig::from_json("config.json", &text).unwrap();
        let _ = (config.eos_token_ids(), config.bos_token_id(), config.dtype());
        match families::build(&config) {
            Ok(graph) => prop_assert!(graph.parameters() > 0),
            Err(error) => {
                let sentence = error.to_string();
                prop_assert!(!sentence.is_empty() && !sentence.contains('\n'), "{}", sentence);
            }
        }
    }

    #[test]
    fn arbitrary_text_is_refused(text in "\\PC{0,60}") {
        let _ = ModelConfig::from_json("config.json", text.as_bytes()).map(|config| families::build(&config).is_ok());
    }
}

#[test]
fn every_needed_key_is_named_when_it_is_missing() {
    for preset in PRESETS {
        assert!(families::build(&preset.config().unwrap()).is_ok(), "{}", preset.name);
    }
    for key in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    {
        let mut config = VALID
            .iter()
            .find(|config| config.get("model_type") == Some(&Value::from("llama")))
            .unwrap()
            .clone();
        config.remove(key);
        let config = ModelConfig::from_json("config.json", &serde_json::to_vec(&config).unwrap()).unwrap();
        let error = families::build(&config).unwrap_err();
        assert_eq!(error.to_string(), format!("config.json has no key `{key}`"));
    }
}
