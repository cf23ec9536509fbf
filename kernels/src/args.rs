//! Arguments of the kernels: one struct per op with named fields, shapes in the docs, no positional lists.
//!
//! Everywhere `m` counts rows (tokens), `n` output features, `k` input features; activations are `f32`,
//! row-major, `x [m, k]`, `w [n, k]`, `y [m, n] = x w^T`.

use crate::cpu::{HeadCache, InputKind, PackedMatrix, RoundedInput};

/// A read-only matrix `[rows, cols]` inside a larger buffer: row `r` starts at `data[r * stride]`.
///
/// `stride >= cols`; a view of one part of a fused projection has the stride of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Elements, starting at the first one of the view.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Columns of this view.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// A writable dense matrix `[rows, cols]`, stride = `cols`.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// `rows * cols` elements.
    pub data: &'a mut [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
}

/// Whether and how the rows of `x` are rounded before they are multiplied.
///
/// They are rounded to 8 bits of the kind of the weights: to [`fp8_e4m3`](crate::format::fp8_e4m3) under 8-bit float
/// weights, to integers from -127 to 127 under all others. With scale `s` a value `x` becomes
/// `s round(x (1 / s))`, ties to even, saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum InputRounding {
    /// Not at all.
    #[default]
    None,
    /// Each row with its own scale, which maps its largest magnitude to the largest code.
    PerToken,
    /// All rows with one scale, known beforehand.
    Static {
        /// The scale; positive.
        scale: f32,
    },
}

/// `y [m, n] = f(x [m, k] w [n, k]^T + bias [n]) + residual [m, n]`.
///
/// Sums are of `f32`, or exact. Kernels may put inputs that are not rounded in fixed point first: with int8, int4, mxfp4
/// and nvfp4 weights those for AVX-512 with VNNI move each by at most `2^-23` of the largest magnitude in its row (and
/// `2^-127`). Those for tiles round the inputs of bf16 weights to bf16, in products of more than four rows.
#[derive(Debug)]
pub struct MatMul<'a> {
    /// Activations `[m, k]`.
    pub x: Rows<'a>,
    /// How they are rounded first.
    pub rounding: InputRounding,
    /// Weights `[n, k]`, packed by the same kernel table that multiplies.
    pub w: &'a PackedMatrix,
    /// Bias `[n]`.
    pub bias: Option<&'a [f32]>,
    /// The function `f`, the identity when there is none; the same bits as [`Activate`] makes.
    pub activation: Option<ActivationKind>,
    /// Added at the end `[m, n]`.
    pub residual: Option<Rows<'a>>,
    /// Weights of the products that come next, joined, as far as that is known: threads that wait fetch the first of them
    /// that they will read.
    pub next: &'a [&'a PackedMatrix],
    /// Result `[m, n]`.
    pub y: RowsMut<'a>,
}

/// The same product of inputs that were rounded before, by [`CpuKernels::round`](crate::cpu::CpuKernels::round) or as
/// another operation's result. The bits are those of [`MatMul`].
#[derive(Debug)]
pub struct RoundedMatMul<'a> {
    /// Activations `[m, k]`.
    pub x: &'a RoundedInput,
    /// Weights `[n, k]`, packed by the same kernel table that multiplies.
    pub w: &'a PackedMatrix,
    /// Bias `[n]`.
    pub bias: Option<&'a [f32]>,
    /// The function `f`.
    pub activation: Option<ActivationKind>,
    /// Added at the end `[m, n]`.
    pub residual: Option<Rows<'a>>,
    /// Weights of the product that comes next, if that is known: each thread fetches the first of them that it will read.
    pub next: Option<&'a PackedMatrix>,
    /// Result `[m, n]`.
    pub y: ProductOutput<'a>,
}

/// Where a product's result goes.
#[derive(Debug)]
pub enum ProductOutput<'a> {
    /// To memory, in f32.
    Rows(RowsMut<'a>),
    /// To other products, rounded for them.
    Rounded(&'a mut RoundedInput, InputKind),
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016).
    Layer,
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019).
    Rms,
}

/// Normalises every row of `x [m, k]` into `y [m, k]`.
#[derive(Debug)]
pub struct Norm<'a> {
    /// Layer or RMS.
    pub kind: NormKind,
    /// Input `[m, k]`.
    pub x: Rows<'a>,
    /// Gain `[k]`.
    pub weight: &'a [f32],
    /// Shift `[k]`.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
    /// Result `[m, k]`.
    pub y: RowsMut<'a>,
}

/// An element-wise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `x/2 (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel 2016).
    GeluErf,
    /// The tanh approximation of GELU that GPT-2 and BLOOM were trained with.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    GeluSigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
    /// `tanh x`.
    Tanh,
}

impl ActivationKind {
    /// Every function.
    pub const ALL: [ActivationKind; 6] =
        [Self::GeluErf, Self::GeluTanh, Self::GeluSigmoid, Self::Relu, Self::Silu, Self::Tanh];
}

/// `y [m, n] = f(x [m, n])`.
#[derive(Debug)]
pub struct Activate<'a> {
    /// The function.
    pub kind: ActivationKind,
    /// Input `[m, n]`.
    pub x: Rows<'a>,
    /// Result `[m, n]`.
    pub y: RowsMut<'a>,
}

/// `y [m, n] = f(gate [m, n]) * up [m, n]` (Shazeer 2020; SwiGLU when `f` is SiLU).
#[derive(Debug)]
pub struct Gate<'a> {
    /// The function applied to the gate.
    pub kind: ActivationKind,
    /// Gate projection `[m, n]`.
    pub gate: Rows<'a>,
    /// Up projection `[m, n]`.
    pub up: Rows<'a>,
    /// Result `[m, n]`.
    pub y: RowsMut<'a>,
}

/// `y [m, n] = a [m, n] + b [m, n]`.
#[derive(Debug)]
pub struct Add<'a> {
    /// First summand.
    pub a: Rows<'a>,
    /// Second summand.
    pub b: Rows<'a>,
    /// Sum.
    pub y: RowsMut<'a>,
}

/// `y [m, k] = table[ids[m]]`, decoded to f32.
#[derive(Debug)]
pub struct Embed<'a> {
    /// Table `[n, k]`, packed.
    pub table: &'a PackedMatrix,
    /// Row indices `[m]`.
    pub ids: &'a [u32],
    /// Result `[m, k]`.
    pub y: RowsMut<'a>,
}

/// Rotary position embedding, rotate-half layout (Su et al. 2021): within each head, dimension `i` is paired
/// with `i + rotary/2` for `i < rotary/2`; dimensions from `rotary` on pass through.
#[derive(Debug)]
pub struct Rope<'a> {
    /// Input `[m, heads * head_dim]`.
    pub x: Rows<'a>,
    /// Number of heads in a row.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// `cos [max_positions, rotary / 2]`, scaling already folded in.
    pub cos: &'a [f32],
    /// `sin [max_positions, rotary / 2]`.
    pub sin: &'a [f32],
    /// Rotated dimensions of a head, even, at most `head_dim`.
    pub rotary: usize,
    /// Position of each row `[m]`.
    pub positions: &'a [u32],
    /// Result `[m, heads * head_dim]`.
    pub y: RowsMut<'a>,
}

/// Keys or values in `f32`: element `d` of token `t`, head `h`, sequence `b` is
/// `data[b * batch_stride + h * head_stride + t * token_stride + d]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadsView<'a> {
    /// Elements, starting at sequence 0, head 0, token 0.
    pub data: &'a [f32],
    /// Elements from one sequence to the next.
    pub batch_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// Elements from one token to the next.
    pub token_stride: usize,
}

/// Keys or values as attention reads them.
#[derive(Clone, Copy, Debug)]
pub enum Heads<'a> {
    /// A projection's output `[batch * tokens, heads * head_dim]`, or any other place in memory.
    Strided(HeadsView<'a>),
    /// A cache.
    Cached(&'a HeadCache),
}

impl<'a> From<HeadsView<'a>> for Heads<'a> {
    fn from(view: HeadsView<'a>) -> Self {
        Self::Strided(view)
    }
}

impl<'a> From<&'a HeadCache> for Heads<'a> {
    fn from(cache: &'a HeadCache) -> Self {
        Self::Cached(cache)
    }
}

/// Sizes of a [`HeadCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadsShape {
    /// Sequences.
    pub batch: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Tokens a sequence can hold.
    pub capacity: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl HeadsShape {
    /// Rows of `head_dim` elements, or `usize::MAX`.
    pub fn rows(&self) -> usize {
        self.batch.saturating_mul(self.heads).saturating_mul(self.capacity)
    }
}

/// `y = softmax(scale q k^T + bias, masked) v`, head by head (Vaswani et al. 2017).
///
/// Query `i` of sequence `b` stands at position `kv_start[b] + i`; keys `0 .. kv_start[b] + tokens` exist.
/// Key `j` is visible when `mask` allows it, when `j <= position` if `causal`, and when
/// `position - j < window` if there is a window (a window without `causal` is symmetric: `|position - j| < window`).
/// A query that sees no key yields zeros.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Queries `[batch * tokens, heads * head_dim]`.
    pub q: Rows<'a>,
    /// Keys.
    pub k: Heads<'a>,
    /// Values.
    pub v: Heads<'a>,
    /// Sequences.
    pub batch: usize,
    /// Queries per sequence.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; `heads` is a multiple (grouped-query attention, Ainslie et al. 2023).
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Keys that stand before the first query, per sequence `[batch]`.
    pub kv_start: &'a [u32],
    /// Multiplied onto `q k^T`.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Sliding window in tokens.
    pub window: Option<usize>,
    /// `slope * j` is added to the scores of key `j`, per query head `[heads]` (ALiBi, Press et al. 2021).
    pub alibi_slopes: Option<&'a [f32]>,
    /// Which keys may be seen, `[batch, mask_stride]`, non-zero = visible.
    pub mask: Option<Mask<'a>>,
    /// What the products may round.
    pub products: AttentionProducts,
    /// Result `[batch * tokens, heads * head_dim]`.
    pub y: RowsMut<'a>,
}

/// What the two products of attention may round; sums and the softmax are `f32` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionProducts {
    /// Nothing.
    #[default]
    F32,
    /// Queries, keys, weights and values to bf16 (nearest even, 2^-9 of each), where there are tiles of bf16 and so many
    /// queries share a key-value head that its keys are packed for them.
    Bf16,
}

/// A padding mask: key `j` of sequence `b` is visible when `visible[b * stride + j] != 0`.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Flags.
    pub visible: &'a [u8],
    /// Flags per sequence.
    pub stride: usize,
}

/// Stores new keys or values `[batch * tokens, heads * head_dim]` in a cache at token `kv_start[b] + i`, rounded to its
/// format.
#[derive(Debug)]
pub struct CacheWrite<'a> {
    /// New rows, sequence by sequence.
    pub x: Rows<'a>,
    /// New tokens per sequence.
    pub tokens: usize,
    /// Where each sequence of the cache continues `[batch]`.
    pub kv_start: &'a [u32],
    /// The cache.
    pub cache: &'a mut HeadCache,
}

/// Mean over the visible tokens of each sequence: `x [batch * tokens, k]` to `y [batch, k]`.
#[derive(Debug)]
pub struct MeanPool<'a> {
    /// Input.
    pub x: Rows<'a>,
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub tokens: usize,
    /// Which tokens count.
    pub mask: Option<Mask<'a>>,
    /// Result `[batch, k]`.
    pub y: RowsMut<'a>,
}

/// `y[r] = x[indices[r]]`: copies chosen rows.
#[derive(Debug)]
pub struct SelectRows<'a> {
    /// Input `[m, k]`.
    pub x: Rows<'a>,
    /// Rows to take.
    pub indices: &'a [u32],
    /// Result `[indices.len(), k]`.
    pub y: RowsMut<'a>,
}
