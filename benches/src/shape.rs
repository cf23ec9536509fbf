//! Shapes that real models have, by name.

use joulewise_kernels::format::Format;

/// A linear layer's weights `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Model and layer.
    pub name: &'static str,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

impl LinearShape {
    /// Flops of a product with `m` rows.
    pub fn flops(self, m: usize) -> f64 {
        2.0 * m as f64 * self.n as f64 * self.k as f64
    }

    /// The same layer, small enough for a test.
    fn shrunk(self) -> Self {
        Self { n: self.n.min(96), k: self.k.min(128), ..self }
    }
}

const fn linear(name: &'static str, n: usize, k: usize) -> LinearShape {
    LinearShape { name, n, k }
}

/// Linear layers of the models that the measurements speak of, small ones first.
const LINEARS: &[LinearShape] = &[
    linear("distilbert_base/q_lin", 768, 768),
    linear("distilbert_base/ffn.lin1", 3072, 768),
    linear("distilbert_base/ffn.lin2", 768, 3072),
    linear("gpt2_small/c_attn", 2304, 768),
    linear("gpt2_small/lm_head", 50_257, 768),
    linear("llama_7b/q_proj", 4096, 4096),
    linear("llama_7b/gate_proj", 11_008, 4096),
    linear("llama_7b/down_proj", 4096, 11_008),
];

/// The linear layers, shrunk when the benchmarks run as tests.
pub fn linears(is_test: bool) -> Vec<LinearShape> {
    LINEARS.iter().map(|shape| if is_test { shape.shrunk() } else { *shape }).collect()
}

/// One call of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Model and phase.
    pub name: &'static str,
    /// New tokens of the one sequence.
    pub tokens: usize,
    /// Tokens that stand in the cache before them.
    pub kv_start: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Whether a token sees only those before it.
    pub causal: bool,
}

impl AttentionShape {
    /// Flops of the two products, over the keys that each query really sees.
    pub fn flops(self) -> f64 {
        let keys = self.kv_start + self.tokens;
        let visible: usize =
            (0..self.tokens).map(|i| if self.causal { self.kv_start + i + 1 } else { keys }).sum();
        4.0 * visible as f64 * (self.heads * self.head_dim) as f64
    }

    /// Bytes of queries, keys, values and result, each once; keys and values in a cache of this format.
    pub fn bytes(self, cache: Format) -> f64 {
        let rows = 2 * self.tokens * self.heads;
        let cached_rows = 2 * (self.kv_start + self.tokens) * self.kv_heads;
        let cached_bytes = cache.spec().encoded_bytes(cached_rows, self.head_dim);
        (rows * self.head_dim * size_of::<f32>() + cached_bytes) as f64
    }

    fn shrunk(self) -> Self {
        Self { tokens: self.tokens.min(9), kv_start: self.kv_start.min(33), ..self }
    }
}

/// Attention of the models that the measurements speak of.
const ATTENTIONS: &[AttentionShape] = &[
    AttentionShape {
        name: "distilbert_base/forward_128",
        tokens: 128,
        kv_start: 0,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        causal: false,
    },
    AttentionShape {
        name: "distilbert_base/forward_512",
        tokens: 512,
        kv_start: 0,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        causal: false,
    },
    AttentionShape {
        name: "gpt2_small/prefill_128",
        tokens: 128,
        kv_start: 0,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        causal: true,
    },
    AttentionShape {
        name: "gpt2_small/decode_at_128",
        tokens: 1,
        kv_start: 128,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        causal: true,
    },
    AttentionShape {
        name: "gpt2_small/decode_at_1000",
        tokens: 1,
        kv_start: 1000,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        causal: true,
    },
    AttentionShape {
        name: "tinyllama_1b/decode_at_2000",
        tokens: 1,
        kv_start: 2000,
        heads: 32,
        kv_heads: 4,
        head_dim: 64,
        causal: true,
    },
    AttentionShape {
        name: "llama_7b/prefill_128",
        tokens: 128,
        kv_start: 0,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        causal: true,
    },
    AttentionShape {
        name: "llama_7b/decode_at_1000",
        tokens: 1,
        kv_start: 1000,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        causal: true,
    },
    AttentionShape {
        name: "mistral_7b/decode_at_1000",
        tokens: 1,
        kv_start: 1000,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        causal: true,
    },
];

/// The attentions, shrunk when the benchmarks run as tests.
pub fn attentions(is_test: bool) -> Vec<AttentionShape> {
    ATTENTIONS.iter().map(|shape| if is_test { shape.shrunk() } else { *shape }).collect()
}

/// Rows of activations `[m, k]` that an element-wise operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsShape {
    /// Model and phase.
    pub name: &'static str,
    /// Tokens.
    pub m: usize,
    /// Width of the model.
    pub k: usize,
    /// Width between the two projections of its MLP.
    pub d_ff: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// Activations of the models that the measurements speak of.
const ROWS: &[RowsShape] = &[
    RowsShape { name: "gpt2_small/decode", m: 1, k: 768, d_ff: 3072, head_dim: 64 },
    RowsShape { name: "distilbert_base/forward_128", m: 128, k: 768, d_ff: 3072, head_dim: 64 },
    RowsShape { name: "llama_7b/decode", m: 1, k: 4096, d_ff: 11_008, head_dim: 128 },
    RowsShape { name: "llama_7b/prefill_128", m: 128, k: 4096, d_ff: 11_008, head_dim: 128 },
];

/// The activations, with fewer tokens when the benchmarks run as tests.
pub fn rows(is_test: bool) -> Vec<RowsShape> {
    let shrunk = |shape: &RowsShape| RowsShape { m: shape.m.min(3), ..*shape };
    ROWS.iter().map(|shape| if is_test { shrunk(shape) } else { *shape }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causal_attention_counts_the_triangle() {
        let shape = AttentionShape {
            name: "",
            tokens: 3,
            kv_start: 2,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            causal: true,
        };
        assert_eq!(shape.flops(), 4.0 * (3 + 4 + 5) as f64);
        assert_eq!(AttentionShape { causal: false, ..shape }.flops(), 4.0 * 15.0);
        assert_eq!(shape.bytes(Format::F32), 4.0 * (2 * 3 + 2 * 5) as f64);
    }
}
