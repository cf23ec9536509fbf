//! The closed set of operations a step can be, and what each costs.
//!
//! A new operation is a new variant: the compiler then names every place that has to know it.

use joulewise_kernels::args::{ActivationKind, NormKind};
use joulewise_kernels::format::Format;

use crate::weight::WeightId;

/// A matrix of activations that one step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index into per-value tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one row of a value stands for; the number of rows follows from the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowDomain {
    /// One row per token of the batch, sequence by sequence.
    Tokens,
    /// One row per sequence.
    Sequences,
    /// One row per position whose logits are wanted: all tokens, or the last one of each sequence.
    Logits,
}

/// Shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueShape {
    /// What a row is.
    pub domain: RowDomain,
    /// Elements of a row.
    pub cols: usize,
}

/// Some columns of a value: all of them, or one part of a fused projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The value that is read.
    pub value: ValueId,
    /// First column.
    pub offset: usize,
    /// Number of columns.
    pub cols: usize,
}

/// Which index selects rows of an embedding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexInput {
    /// The tokens themselves.
    TokenIds,
    /// Their positions.
    Positions,
    /// The segment each token belongs to (BERT).
    TokenTypes,
}

/// Which row of each sequence is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChoice {
    /// The first token (`[CLS]`), into [`RowDomain::Sequences`].
    First,
    /// The rows whose logits are wanted, into [`RowDomain::Logits`]; all of them, or the last visible one.
    Logits,
}

/// Index of a rotary table in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub u32);

/// What distinguishes one attention from another.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplied onto the scores.
    pub scale: f32,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// Sliding window in tokens.
    pub window: Option<usize>,
    /// One slope per query head.
    pub alibi_slopes: Option<Vec<f32>>,
}

/// One operation; the shapes of its operands are those of the values it names.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// `y = table[index]`.
    Embed {
        /// Table `[n, k]`.
        table: WeightId,
        /// What selects the rows.
        index: IndexInput,
        /// Result `[rows, k]`.
        y: ValueId,
    },
    /// `y = x w^T + bias`.
    Linear {
        /// Input `[rows, k]`.
        x: Operand,
        /// Weight `[n, k]`.
        weight: WeightId,
        /// Bias `[n]`.
        bias: Option<WeightId>,
        /// Result `[rows, n]`.
        y: ValueId,
    },
    /// `y = normalise(x) * weight + bias`, row by row.
    Norm {
        /// LayerNorm or RMSNorm.
        kind: NormKind,
        /// Input.
        x: Operand,
        /// Gain.
        weight: WeightId,
        /// Shift.
        bias: Option<WeightId>,
        /// Added to the variance.
        eps: f32,
        /// Result.
        y: ValueId,
    },
    /// `y = f(x)`.
    Activate {
        /// The function.
        kind: ActivationKind,
        /// Input.
        x: Operand,
        /// Result.
        y: ValueId,
    },
    /// `y = f(gate) * up`.
    Gate {
        /// The function.
        kind: ActivationKind,
        /// Gate projection.
        gate: Operand,
        /// Up projection.
        up: Operand,
        /// Result.
        y: ValueId,
    },
    /// `y = a + b`.
    Add {
        /// First summand.
        a: Operand,
        /// Second summand.
        b: Operand,
        /// Sum.
        y: ValueId,
    },
    /// Rotary embedding of every head of `x`.
    Rope {
        /// Input `[tokens, heads * head_dim]`.
        x: Operand,
        /// Elements of a head.
        head_dim: usize,
        /// Table.
        table: RopeId,
        /// Result.
        y: ValueId,
    },
    /// Appends keys and values to the cache of one layer. Left out of programs that run without a cache.
    CacheWrite {
        /// Layer of the cache.
        layer: usize,
        /// Keys `[tokens, kv_heads * head_dim]`.
        k: Operand,
        /// Values, the same shape.
        v: Operand,
    },
    /// `y = softmax(scale q k^T) v`, from the cache where the program has one, else from `k` and `v`.
    Attention {
        /// Queries `[tokens, heads * head_dim]`.
        q: Operand,
        /// Keys of the tokens of this run.
        k: Operand,
        /// Values of the tokens of this run.
        v: Operand,
        /// Layer of the cache, for causal models.
        layer: Option<usize>,
        /// Heads, scale, masks.
        spec: AttentionSpec,
        /// Result `[tokens, heads * head_dim]`.
        y: ValueId,
    },
    /// Keeps some rows of each sequence.
    SelectRows {
        /// Input, per token.
        x: Operand,
        /// Which.
        which: RowChoice,
        /// Result, per sequence.
        y: ValueId,
    },
    /// Mean over the visible tokens of each sequence.
    MeanPool {
        /// Input, per token.
        x: Operand,
        /// Result, per sequence.
        y: ValueId,
    },
}

/// Work and traffic of a step, counted from shapes, not measured.
///
/// Bytes are compulsory traffic: every operand once, each in the format that it is kept in: weights, the cache,
/// activations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Bytes read, weights included.
    pub bytes_read: f64,
    /// Bytes written.
    pub bytes_written: f64,
    /// The part of `bytes_read` that is weights.
    pub weight_bytes: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.flops += other.flops;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.weight_bytes += other.weight_bytes;
    }
}

/// Sizes an op's cost depends on besides its own fields.
pub(crate) struct CostContext<'a> {
    /// Shape of a value as `(rows, cols)`.
    pub(crate) shape: &'a dyn Fn(ValueId) -> (usize, usize),
    /// Format of a value.
    pub(crate) format: &'a dyn Fn(ValueId) -> Format,
    /// Stored bytes of a weight.
    pub(crate) weight_bytes: &'a dyn Fn(WeightId) -> usize,
    /// Stored bytes of one row of a table.
    pub(crate) row_bytes: &'a dyn Fn(WeightId) -> usize,
    /// Format of the cache and elements of its heads, in programs that use one.
    pub(crate) cache: Option<(Format, usize)>,
    /// Sequences of the batch.
    pub(crate) batch: usize,
    /// New tokens per sequence.
    pub(crate) tokens: usize,
    /// Tokens before the new ones, per sequence.
    pub(crate) kv_start: usize,
}

impl CostContext<'_> {
    fn element_bytes(&self, value: ValueId) -> f64 {
        (self.format)(value).spec().encoded_bytes(1, 1) as f64
    }

    fn elements(&self, operand: &Operand) -> f64 {
        ((self.shape)(operand.value).0 * operand.cols) as f64
    }

    fn written(&self, y: &ValueId) -> f64 {
        let (rows, cols) = (self.shape)(*y);
        (rows * cols) as f64
    }

    /// Bytes of so many keys or values: in the cache where there is one, else where `operand` is.
    fn cached_bytes(&self, layer: Option<usize>, elements: f64, operand: &Operand) -> f64 {
        match layer.and(self.cache) {
            Some((format, head_dim)) => {
                elements / head_dim as f64 * format.spec().encoded_bytes(1, head_dim) as f64
            }
            None => elements * self.element_bytes(operand.value),
        }
    }

    /// An op that reads and writes values alone.
    fn streamed(&self, flops: f64, inputs: &[&Operand], y: Option<&ValueId>) -> Cost {
        Cost {
            flops,
            bytes_read: inputs.iter().map(|x| self.elements(x) * self.element_bytes(x.value)).sum(),
            bytes_written: y.map_or(0.0, |y| self.written(y) * self.element_bytes(*y)),
            weight_bytes: 0.0,
        }
    }

    /// The same with weights.
    fn weighted(&self, flops: f64, weight_bytes: f64, inputs: &[&Operand], y: &ValueId) -> Cost {
        let streamed = self.streamed(flops, inputs, Some(y));
        Cost { bytes_read: streamed.bytes_read + weight_bytes, weight_bytes, ..streamed }
    }
}

impl Op {
    /// The value this step writes; `None` for a cache write.
    pub fn output(&self) -> Option<ValueId> {
        match self {
            Op::Embed { y, .. }
            | Op::Linear { y, .. }
            | Op::Norm { y, .. }
            | Op::Activate { y, .. }
            | Op::Gate { y, .. }
            | Op::Add { y, .. }
            | Op::Rope { y, .. }
            | Op::Attention { y, .. }
            | Op::SelectRows { y, .. }
            | Op::MeanPool { y, .. } => Some(*y),
            Op::CacheWrite { .. } => None,
        }
    }

    /// The operands this step reads.
    pub fn inputs(&self) -> Vec<Operand> {
        match self {
            Op::Embed { .. } => vec![],
            Op::Linear { x, .. }
            | Op::Norm { x, .. }
            | Op::Activate { x, .. }
            | Op::Rope { x, .. }
            | Op::SelectRows { x, .. }
            | Op::MeanPool { x, .. } => vec![*x],
            Op::Gate { gate, up, .. } => vec![*gate, *up],
            Op::Add { a, b, .. } => vec![*a, *b],
            Op::CacheWrite { k, v, .. } => vec![*k, *v],
            Op::Attention { q, k, v, .. } => vec![*q, *k, *v],
        }
    }

    /// Short name for tables and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::Linear { .. } => "linear",
            Op::Norm { kind: NormKind::Layer, .. } => "layer_norm",
            Op::Norm { kind: NormKind::Rms, .. } => "rms_norm",
            Op::Activate { .. } => "activate",
            Op::Gate { .. } => "gate",
            Op::Add { .. } => "add",
            Op::Rope { .. } => "rope",
            Op::CacheWrite { .. } => "cache_write",
            Op::Attention { .. } => "attention",
            Op::SelectRows { .. } => "select_rows",
            Op::MeanPool { .. } => "mean_pool",
        }
    }

    /// Counted work and traffic.
    ///
    /// Transcendental functions count as 8 flops, a normalised element as 8, a pooled or added one as 1; only linears
    /// and attention matter beside them.
    pub(crate) fn cost(&self, context: &CostContext<'_>) -> Cost {
        let written = |y: &ValueId| context.written(y);
        let stored = |weight: &WeightId, bias: &Option<WeightId>| {
            let bias_bytes = bias.map_or(0, |bias| (context.weight_bytes)(bias));
            ((context.weight_bytes)(*weight) + bias_bytes) as f64
        };
        match self {
            Op::Embed { table, y, .. } => {
                let rows = (context.shape)(*y).0;
                let weight_bytes = (rows * (context.row_bytes)(*table)) as f64;
                let mut cost = context.weighted(0.0, weight_bytes, &[], y);
                // The indices.
                cost.bytes_read += (rows * size_of::<u32>()) as f64;
                cost
            }
            Op::Linear { x, weight, bias, y } => {
                context.weighted(2.0 * written(y) * x.cols as f64, stored(weight, bias), &[x], y)
            }
            Op::Norm { x, weight, bias, y, .. } => {
                context.weighted(8.0 * written(y), stored(weight, bias), &[x], y)
            }
            Op::Activate { x, y, .. } => context.streamed(8.0 * written(y), &[x], Some(y)),
            Op::Gate { gate, up, y, .. } => context.streamed(9.0 * written(y), &[gate, up], Some(y)),
            Op::Add { a, b, y } => context.streamed(written(y), &[a, b], Some(y)),
            Op::Rope { x, y, .. } => {
                let mut cost = context.streamed(3.0 * written(y), &[x], Some(y));
                // The table, as many elements in f32.
                cost.bytes_read += context.elements(x) * size_of::<f32>() as f64;
                cost
            }
            Op::CacheWrite { layer, k, v } => {
                let moved = [k, v].map(|x| context.cached_bytes(Some(*layer), context.elements(x), x));
                Cost { bytes_written: moved.iter().sum(), ..context.streamed(0.0, &[k, v], None) }
            }
            Op::Attention { q, k, layer, spec, y, .. } => {
                // Each query sees `kv_start + i + 1` keys when causal, all of them otherwise, at most a window.
                let keys = context.kv_start + context.tokens;
                let visible: f64 = (0..context.tokens)
                    .map(|i| {
                        let all = if spec.causal { context.kv_start + i + 1 } else { keys };
                        spec.window.map_or(all, |window| all.min(window)) as f64
                    })
                    .sum();
                let pairs = context.batch as f64 * visible * spec.heads as f64;
                let cache = (context.batch * keys * 2 * spec.kv_heads * spec.head_dim) as f64;
                let flops = pairs * (4.0 * spec.head_dim as f64 + 8.0);
                let mut cost = context.streamed(flops, &[q], Some(y));
                cost.bytes_read += context.cached_bytes(*layer, cache, k);
                cost
            }
            Op::SelectRows { x, y, .. } => {
                // As many as it keeps.
                let cost = context.streamed(0.0, &[], Some(y));
                Cost { bytes_read: written(y) * context.element_bytes(x.value), ..cost }
            }
            Op::MeanPool { x, y } => context.streamed(context.elements(x), &[x], Some(y)),
        }
    }
}
