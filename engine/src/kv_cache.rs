//! Keys and values of the tokens seen so far.

use std::any::Any;

use joulewise_kernels::format::Format;

/// Sizes of a cache, and what it is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers with attention.
    pub layers: usize,
    /// Sequences.
    pub batch: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Tokens a sequence can hold.
    pub capacity: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Format of the keys and values; one with scales has one per head and token.
    pub format: Format,
}

impl CacheShape {
    /// Bytes of the keys of one layer.
    pub fn layer_bytes(&self) -> usize {
        let rows = self.batch.saturating_mul(self.kv_heads).saturating_mul(self.capacity);
        self.format.spec().encoded_bytes(rows, self.head_dim)
    }

    /// Bytes of the keys and values of all layers.
    pub fn size_bytes(&self) -> usize {
        self.layer_bytes().saturating_mul(2).saturating_mul(self.layers)
    }
}

/// A backend's memory for a cache; the backend that made it knows what is inside.
pub trait CacheMemory: Any + Send {
    /// Bytes held.
    fn size_bytes(&self) -> usize;
}

/// A cache and how far each of its sequences is filled.
pub struct KvCache {
    /// Sizes.
    pub shape: CacheShape,
    /// Tokens of each sequence `[batch]`.
    pub lengths: Vec<u32>,
    /// Where they are.
    pub memory: Box<dyn CacheMemory>,
}
