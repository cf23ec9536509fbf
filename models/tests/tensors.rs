//! No tensor of a checkpoint is forgotten: each is read, or is known to be of no use.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says where it stopped and what it skipped"
)]

mod directories;

use std::collections::HashSet;

use directories::golden_directories;
use joulewise_models::{Checkpoint, ModelSpec, load};

/// Parts of the names of tensors that are rightly left unread.
const OF_NO_USE: &[&str] = &[
    // Buffers that old versions saved.
    "position_ids",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
    // Heads of pre-training tasks on encoders that make embeddings, and the pooler that mean pooling does without.
    "cls.",
    "lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "pooler.",
];

#[test]
fn every_tensor_is_read_or_of_no_use() {
    for directory in golden_directories() {
        let checkpoint = Checkpoint::open(&directory).unwrap();
        let model = load(&ModelSpec::Directory(directory.clone())).unwrap();
        let read: HashSet<&str> =
            model.graph.weights.iter().map(|weight| checkpoint.resolve(&weight.name).unwrap()).collect();
        let forgotten: Vec<&str> = checkpoint
            .names()
            .filter(|name| !read.contains(name) && !OF_NO_USE.iter().any(|part| name.contains(part)))
            .collect();
        assert!(forgotten.is_empty(), "{}: {forgotten:?}", directory.display());
        // Nor is one read twice under two names.
        assert_eq!(read.len(), model.graph.weights.len(), "{}", directory.display());
    }
}
