//! What an instruction set provides: single-threaded functions on parts of an operation.

use std::ops::Range;

use crate::args::{ActivationKind, InputRounding, NormKind};
use crate::cpu::Isa;
use crate::cpu::grid::Grid;
use crate::cpu::packed::{BlockScales, Scales};
use crate::format::Codes;

/// Products are summed in blocks of this many terms, and the blocks' sums in order.
///
/// All kernels use the same blocks, whatever the number of rows, so a row's result does not depend on its
/// neighbours; and a sum of `k` terms carries the rounding of `K_BLOCK + k / K_BLOCK` additions, not of `k`.
pub(super) const K_BLOCK: usize = 512;

/// The functions of one instruction set.
///
/// # Safety
///
/// Each function may be called only on a processor that has `isa`.
/// Functions on slices have no other precondition: they stay within the slices whatever their lengths.
#[derive(Clone, Copy)]
pub(super) struct OpTable {
    pub(super) isa: Isa,
    /// Rows of `w` in a panel of a [`PackedMatrix`](super::PackedMatrix).
    pub(super) panel_width: usize,
    /// Most rows of `x` that `multiply_panel` takes at once.
    pub(super) panel_rows: usize,
    /// Rows up to which `multiply_panel` also takes [`PANELS`] consecutive panels at once.
    pub(super) few_rows: usize,
    pub(super) multiply_panel: unsafe fn(&PanelProduct),
    /// Widens the units of a panel to `out [terms, panel_width]`, without scales; `codes` holds exactly so many.
    pub(super) widen: unsafe fn(Codes, codes: &[u8], out: &mut [f32]),
    /// Products of 8-bit integers.
    pub(super) integer: RoundedKernels,
    /// Products of bf16, where they are faster than products of floats.
    pub(super) brain: Option<BrainKernels>,
    /// Products of inputs in fixed point with weights on a grid, where they are faster than products of floats.
    pub(super) fixed: Option<FixedKernels>,
    /// Interleaves rows for `multiply_panel`, as its `x` or as a panel.
    pub(super) interleave: unsafe fn(Interleave<'_>),
    pub(super) norm: unsafe fn(NormRow<'_>),
    pub(super) activate: unsafe fn(ActivationKind, x: &[f32], y: &mut [f32]),
    pub(super) gate: unsafe fn(ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]),
    pub(super) add: unsafe fn(a: &[f32], b: &[f32], y: &mut [f32]),
    pub(super) rope: unsafe fn(RopeHead<'_>),
    pub(super) softmax: unsafe fn(x: &[f32], y: &mut [f32]),
    pub(super) argmax: unsafe fn(x: &[f32]) -> usize,
    /// The exponentials of attention scores; see [`Scores`]. Returns the new maximum and the sum.
    pub(super) exponentials: unsafe fn(Scores<'_>) -> (f32, f32),
    /// `scores[j] = q . keys[j]`, without the scales of the keys.
    pub(super) dots: unsafe fn(q: &[f32], keys: TokenRows<'_>, is_far: bool, scores: &mut [f32]),
    /// `y += sum over j of weights[j] * values[j]`, without the scales of the values.
    pub(super) weighted_sum: unsafe fn(weights: &[f32], values: TokenRows<'_>, is_far: bool, y: &mut [f32]),
    /// Rounds a row of keys or values to integers; its scale.
    pub(super) round_row: unsafe fn(values: &[f32], codes: &mut [u8]) -> f32,
    /// Rows of `d` elements, scales applied, to `out [rows, d]`.
    pub(super) widen_rows: unsafe fn(rows: TokenRows<'_>, d: usize, out: &mut [f32]),
}

impl std::fmt::Debug for OpTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpTable").field("isa", &self.isa).finish_non_exhaustive()
    }
}

/// Panels that a product of few rows takes at once: weights that come from memory arrive faster from several places
/// than from one, by 40 % where it was measured, because each is a sequence of its own to the hardware's prefetchers.
pub(super) const PANELS: usize = 4;

/// A few rows of `x` times one panel of `w`, or times [`PANELS`] panels: `y [rows, cols] (+)= x [rows, k] w^T (+ bias)`.
///
/// The codes of a block (of [`K_BLOCK`] terms, or that share a scale, whichever is shorter) are summed in order, then
/// the sums of the blocks times their scales.
///
/// # Safety
///
/// For whoever computes it: `x`, `w`, `scales`, `bias` and `y` are valid for the elements named below, nobody writes
/// the former four or touches `y` meanwhile, `1 <= rows <= panel_rows`, and `cols` ends in the last panel.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "hints that not every kernel takes"))]
pub(super) struct PanelProduct {
    /// `x [rows, k]`, in the order of `x_order`; `k` is padded with zeros to whole units.
    pub(super) x: *const f32,
    pub(super) x_order: RowOrder,
    pub(super) rows: usize,
    /// `k` codes of `panel_width` rows, in units, aligned for them.
    pub(super) w: *const u8,
    pub(super) codes: Codes,
    pub(super) scales: Scales,
    /// Bytes from this panel's codes and scales to the next one's when [`PANELS`] are multiplied (`rows <= few_rows`
    /// only); zero for one panel.
    pub(super) panel_stride: usize,
    pub(super) k: usize,
    /// Element `(r, j)` of `y` is at `y + r * y_stride + j`.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
    pub(super) cols: usize,
    /// Added at the end unless null: `cols` elements.
    pub(super) bias: *const f32,
    /// Whether the product is added to `y` or replaces it.
    pub(super) accumulate: bool,
    /// Memory that is wanted soon; a kernel may fetch it meanwhile.
    pub(super) wanted: Wanted,
}

impl PanelProduct {
    /// The end of the block that starts at term `first`.
    #[inline(always)]
    pub(super) fn block_end(&self, first: usize) -> usize {
        let end = match self.scales {
            Scales::Blocks(BlockScales { block_len, .. }) => (first / block_len + 1) * block_len,
            _ => usize::MAX,
        };
        end.min(first + K_BLOCK).min(self.k)
    }
}

/// The functions for products whose inputs are rounded to the kind of the weights: integers of 8 bits, or bf16.
#[derive(Clone, Copy)]
pub(super) struct RoundedKernels {
    /// Most rows of `x` that `multiply` takes at once.
    pub(super) rows: usize,
    pub(super) multiply: unsafe fn(&RoundedProduct),
    /// Several products, one after the other, where the end of one goes on beside the next.
    pub(super) multiply_in_turn: Option<unsafe fn(&mut dyn Iterator<Item = RoundedProduct>)>,
    /// Whether `multiply` applies the [`Ending`] of a product; otherwise it may be ignored.
    pub(super) ends: bool,
    pub(super) round: unsafe fn(RoundRow<'_>) -> RoundedRow,
}

/// The functions for products of bf16.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every processor has them"))]
pub(super) struct BrainKernels {
    pub(super) product: RoundedKernels,
    /// Element `i` of `out` becomes the bits of `a[i]` and, above them, of `b[i]`, rounded to bf16; zeros behind the ends of
    /// `a` and `b`, which are at most as long.
    pub(super) pair: unsafe fn(a: &[f32], b: &[f32], out: &mut [f32]),
}

/// Bytes that follow each other in a row of rounded inputs: a cache line, and a row of a tile.
pub(super) const PIECE_BYTES: usize = 64;

/// A few rows of rounded inputs times some panels of the same kind: `y [rows, cols] = x_scale w_scale (x w^T) + bias`.
///
/// # Safety
///
/// For whoever computes it: the pointers are valid for the elements named below, nobody writes what they point to
/// meanwhile but `y`, which nobody touches, `1 <= rows <= RoundedKernels::rows`, and `cols` ends in the last panel.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "hints that not every kernel takes"))]
pub(super) struct RoundedProduct {
    /// `[pieces, rows, 64]` bytes, `k` padded with zeros.
    pub(super) x: *const i8,
    pub(super) rows: usize,
    /// `[rows]`; not read for bf16.
    pub(super) x_rows: *const RoundedRow,
    pub(super) panels: usize,
    /// `16 pieces` units of `panel_width` rows: of the first panel.
    pub(super) w: *const u8,
    /// `[panel_width]`, of the first panel; null for bf16.
    pub(super) w_scales: *const f32,
    /// Bytes from one panel's codes and scales to the next one's.
    pub(super) panel_stride: usize,
    pub(super) pieces: usize,
    /// Element `(r, j)` of `y` is at `y + r * y_stride + j`.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
    /// Where results go instead unless null, rounded to bf16: `[panels, rows, 64]` bytes, zero behind the columns. Only of
    /// products of bf16.
    pub(super) y_pieces: *mut u8,
    pub(super) cols: usize,
    /// Added at the end unless null: `cols` elements.
    pub(super) bias: *const f32,
    pub(super) ending: Ending,
    /// Whether `y` is better written past the caches, which would not hold it until it is read.
    pub(super) past_caches: bool,
    /// Cache lines that are wanted soon: the first, and how many. Addresses are hints: they need not be valid.
    pub(super) wanted: (*const u8, usize),
}

impl RoundedProduct {
    /// Whether nothing happens to its sums, scales aside.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every kernel asks"))]
    pub(super) fn is_plain(&self) -> bool {
        let Ending { activation, residual, .. } = self.ending;
        self.bias.is_null() && activation.is_none() && residual.is_null() && self.y_pieces.is_null()
    }
}

/// What happens to a product's sums behind the bias.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every kernel looks at it"))]
pub(super) struct Ending {
    pub(super) activation: Option<ActivationKind>,
    /// Element `(r, j)` of what is added then is at `residual + r * residual_stride + j`, unless null.
    pub(super) residual: *const f32,
    pub(super) residual_stride: usize,
}

impl Ending {
    /// Nothing happens.
    pub(super) const NONE: Self = Self { activation: None, residual: std::ptr::null(), residual_stride: 0 };
}

/// One row to round; see [`InputRounding`].
pub(super) struct RoundRow<'a> {
    pub(super) x: &'a [f32],
    pub(super) rounding: InputRounding,
    /// The codes, in pieces of [`PIECE_BYTES`], each the first of `piece_stride` bytes; zero behind the last term.
    pub(super) codes: &'a mut [i8],
    pub(super) piece_stride: usize,
}

/// What a product of integers has to know of a rounded row.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct RoundedRow {
    pub(super) scale: f32,
    /// Sum of the codes.
    pub(super) sum: i32,
}

/// The functions for products of inputs in fixed point with weights that are integers of at most 8 bits, or become some
/// when they are multiplied by a constant.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every processor has them"))]
pub(super) struct FixedKernels {
    /// Most rows of `x` that `multiply` takes at once.
    pub(super) rows: usize,
    pub(super) multiply: unsafe fn(&FixedProduct),
    pub(super) split: unsafe fn(SplitRow<'_>),
}

/// Digits of an input in fixed point: `x = scale (65536 d[0] + 256 d[1] + d[2])`, each from -128 to 127.
pub(super) const DIGITS: usize = 3;

/// Panels that such a product takes at most: sums of integers take turns in the registers, so more places than [`PANELS`]
/// can be read at once.
pub(super) const FIXED_PANELS: usize = 2 * PANELS;

/// A few rows of inputs in fixed point times up to [`FIXED_PANELS`] panels: `y [rows, cols] = x w^T + bias`.
///
/// The digits of a block of terms are summed as integers, which is exact, then the blocks' sums times their scales.
///
/// # Safety
///
/// For whoever computes it: the pointers are valid for the elements named below, nobody writes what they point to
/// meanwhile but `y`, which nobody touches, `1 <= rows <= FixedKernels::rows`, and `cols` ends in the last panel.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every processor has a kernel"))]
pub(super) struct FixedProduct {
    /// `[pieces, rows, DIGITS * 64]` bytes as [`SplitRow`] says, `k` padded with zeros.
    pub(super) x: *const i8,
    /// `[blocks, rows, DIGITS]`: what moving up the weights adds to the sums of digits, negated.
    pub(super) x_sums: *const i32,
    /// `[rows]`.
    pub(super) x_scales: *const f32,
    pub(super) rows: usize,
    pub(super) panels: usize,
    /// The codes of the first panel, in units.
    pub(super) w: *const u8,
    pub(super) grid: Grid,
    pub(super) scales: Scales,
    /// Bytes from one panel's codes and scales to the next one's.
    pub(super) panel_stride: usize,
    pub(super) k: usize,
    /// Terms of a block, whole units; those that share a scale if such there are.
    pub(super) block_len: usize,
    /// Element `(r, j)` of `y` is at `y + r * y_stride + j`.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
    pub(super) cols: usize,
    /// Added at the end unless null: `cols` elements.
    pub(super) bias: *const f32,
}

/// One row to be split into digits.
///
/// The scale is the smallest power of two under which the largest magnitude fits: at most `2^-22` of it, so no input
/// moves by more than `2^-23` of the largest.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every processor has a kernel"))]
pub(super) struct SplitRow<'a> {
    pub(super) x: &'a [f32],
    /// Pieces of [`PIECE_BYTES`] terms, `piece_stride` bytes apart: `DIGITS` times so many bytes, zero behind the last
    /// term, in the order that `multiply` reads. Where a byte of weights holds two codes, the even ones of eight terms
    /// come before the odd ones.
    pub(super) digits: &'a mut [i8],
    pub(super) piece_stride: usize,
    /// Of block `b` from `b * sum_stride` on: its digits' sums times minus what `multiply` adds to weights.
    pub(super) sums: &'a mut [i32],
    pub(super) sum_stride: usize,
    pub(super) block_len: usize,
    pub(super) grid: Grid,
    /// The scale, times the step of the grid; NaN, and all else unspecified, when an input is infinite or NaN.
    pub(super) scale: &'a mut f32,
}

/// What a [`PanelProduct`] fetches into the caches on the side. Addresses are hints: they need not be valid.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "hints that not every kernel takes"))]
pub(super) enum Wanted {
    /// The weights of the product itself, a little ahead of their use: they come from memory.
    Weights,
    /// So many cache lines from here on, for a later product: the weights of this one are in L2 already.
    Lines(*const u8, usize),
}

/// How the few rows of a [`PanelProduct`] lie in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// Element `(r, i)` is at `i * rows + r`.
    Interleaved,
    /// Element `(r, i)` is at `r * SCORES_STRIDE + i`; for `f32` weights only.
    Scores,
}

/// From one query's attention scores to the next one's.
///
/// A multiple of every panel width, and a constant so that kernels can address the rows of a block without computing.
pub(super) const SCORES_STRIDE: usize = 128;

/// Rows to interleave: `packed [k, width]` from `rows <= width` rows of `k` elements, `stride` apart; the columns from
/// `rows` on are zero.
pub(super) struct Interleave<'a> {
    pub(super) x: &'a [f32],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) packed: &'a mut [f32],
}

impl Interleave<'_> {
    /// `k`, after checking that every row has so many elements.
    pub(super) fn checked_k(&self) -> usize {
        assert!(1 <= self.rows && self.rows <= self.width, "rows fit the width");
        let k = self.packed.len() / self.width;
        assert!(
            (self.rows - 1).saturating_mul(self.stride).saturating_add(k) <= self.x.len(),
            "rows have k elements"
        );
        k
    }
}

/// One row to normalise.
pub(super) struct NormRow<'a> {
    pub(super) kind: NormKind,
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) eps: f32,
    pub(super) y: &'a mut [f32],
}

/// One head to rotate: `x` and `y [head_dim]`, `cos` and `sin [rotary / 2]`.
pub(super) struct RopeHead<'a> {
    pub(super) x: &'a [f32],
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) y: &'a mut [f32],
}

/// Keys or values of one head: row `j` is `data[j * stride ..]`, times `scales[j]` where there are scales.
#[derive(Clone, Copy)]
pub(super) struct TokenRows<'a> {
    pub(super) data: TokenData<'a>,
    pub(super) stride: usize,
    pub(super) scales: Option<&'a [f32]>,
}

/// Elements of keys or values.
#[derive(Clone, Copy)]
pub(super) enum TokenData<'a> {
    F32(&'a [f32]),
    /// The bits of IEEE halves.
    F16(&'a [u16]),
    Int8(&'a [i8]),
}

/// Keys or values of one head in `f32`: row `j` is `data[j * stride ..]`.
#[derive(Clone, Copy)]
pub(super) struct FloatRows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> From<FloatRows<'a>> for TokenRows<'a> {
    fn from(FloatRows { data, stride }: FloatRows<'a>) -> Self {
        Self { data: TokenData::F32(data), stride, scales: None }
    }
}

impl<'a> TokenRows<'a> {
    /// The rows from row `first` on.
    pub(super) fn skip(&self, first: usize) -> Self {
        let start = first * self.stride;
        let data = match self.data {
            TokenData::F32(data) => TokenData::F32(&data[start..]),
            TokenData::F16(data) => TokenData::F16(&data[start..]),
            TokenData::Int8(data) => TokenData::Int8(&data[start..]),
        };
        Self { data, stride: self.stride, scales: self.scales.map(|scales| &scales[first..]) }
    }

    /// Multiplies one value of each row by the row's scale.
    pub(super) fn scale(&self, values: &mut [f32]) {
        for (value, scale) in values.iter_mut().zip(self.scales.unwrap_or_default()) {
            *value *= scale;
        }
    }

    /// Panics unless there are `rows` rows of `cols` elements.
    #[inline(always)]
    pub(super) fn assert_holds(&self, rows: usize, cols: usize) {
        let len = match self.data {
            TokenData::F32(data) => data.len(),
            TokenData::F16(data) => data.len(),
            TokenData::Int8(data) => data.len(),
        };
        let last = rows.saturating_sub(1).saturating_mul(self.stride);
        assert!(rows == 0 || last.saturating_add(cols) <= len, "rows of keys or values");
    }
}

/// Products of one query with consecutive keys, to be turned into weights.
pub(super) struct Scores<'a> {
    pub(super) scores: &'a mut [f32],
    /// Multiplied onto the scores.
    pub(super) scale: f32,
    /// `slope * j` is added to the score of key `j`.
    pub(super) slope: f32,
    /// The key of the first score.
    pub(super) first_key: usize,
    /// Scores whose keys may be seen, the mask aside.
    pub(super) visible: Range<usize>,
    /// Which keys may be seen, non-zero = visible, a flag for each score.
    pub(super) mask: Option<&'a [u8]>,
    /// The largest score before these; minus infinity when there is none.
    pub(super) max: f32,
}
