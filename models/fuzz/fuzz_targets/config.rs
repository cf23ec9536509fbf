//! Whatever `config.json` says, the answer is a graph or one sentence.
//!
//! `models/fuzz/run config`
#![no_main]

use joulewise_models::{ModelConfig, families};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(config) = ModelConfig::from_json("fuzz", json) else { return };
    let _ = (config.eos_token_ids(), config.labels(), config.dtype());
    match families::build(&config) {
        Ok(graph) => assert!(graph.parameters() > 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
