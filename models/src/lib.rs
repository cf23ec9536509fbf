//! From a model's name to what the engine runs: checkpoints, configurations, families, tokenizers.
//!
//! [`load()`] is the door. Behind it, [`ModelConfig`] reads `config.json`, [`families`] turn it into the engine's
//! graph, [`Checkpoint`] maps the weights, and [`Tokenizer`] turns text into ids. [`demo`] has two small models that
//! are part of the program; [`synthetic`] has shapes of large ones without their weights; [`golden`] compares with
//! reference tensors. [`WordVectors`] are the baselines from before transformers.
//!
//! Every file is treated as hostile: whatever it holds, the answer is a value or one sentence, never a panic.

#![deny(unsafe_code)]

mod checkpoint;
mod config;
pub mod demo;
mod error;
mod export;
pub mod families;
mod file;
mod gguf;
pub mod golden;
mod load;
pub mod recipe;
pub mod synthetic;
mod tokenizer;
mod word_vectors;

pub use checkpoint::Checkpoint;
pub use config::{ModelConfig, Pooling};
pub use error::{ModelError, Result};
pub use export::{Exported, export};
pub use gguf::Gguf;
pub use joulewise_engine::Format;
pub use load::{LoadedModel, ModelSpec, load};
pub use tokenizer::{Encoded, TextStream, Tokenizer};
pub use word_vectors::{Neighbour, WordVectors};

/// The code in the README is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
