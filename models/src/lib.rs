//! From a model's name to what the engine runs: checkpoints, configurations, families, tokenizers.

#![deny(unsafe_code)]

mod checkpoint;
mod config;
mod error;
pub mod families;
mod file;
pub mod golden;

pub use checkpoint::{Checkpoint, TensorEntry, parse_header};
pub use config::{ModelConfig, Pooling};
pub use error::{ModelError, Result};
