//! What an instruction set provides: single-threaded functions on parts of an operation.

use crate::args::{ActivationKind, NormKind};
use crate::cpu::Isa;
use crate::format::Format;

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
    pub(super) multiply_panel: unsafe fn(&PanelProduct),
    /// Widens weights to `out`; `bytes` holds exactly `out.len()` of them.
    pub(super) widen: unsafe fn(Format, bytes: &[u8], out: &mut [f32]),
    /// Interleaves rows of `x` for `multiply_panel`: `packed [k, rows]` from `rows` rows, `stride` apart.
    pub(super) interleave: unsafe fn(x: &[f32], stride: usize, rows: usize, packed: &mut [f32]),
    pub(super) norm: unsafe fn(NormRow<'_>),
    pub(super) activate: unsafe fn(ActivationKind, x: &[f32], y: &mut [f32]),
    pub(super) gate: unsafe fn(ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]),
    pub(super) add: unsafe fn(a: &[f32], b: &[f32], y: &mut [f32]),
    pub(super) rope: unsafe fn(RopeHead<'_>),
    pub(super) softmax: unsafe fn(x: &[f32], y: &mut [f32]),
    pub(super) argmax: unsafe fn(x: &[f32]) -> usize,
    pub(super) attention: unsafe fn(&AttentionBlock<'_>),
}

impl std::fmt::Debug for OpTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpTable").field("isa", &self.isa).finish_non_exhaustive()
    }
}

/// A few rows of `x` times one panel of `w`: `y [rows, cols] (+)= x [rows, k] panel^T (+ bias)`.
///
/// # Safety
///
/// For whoever computes it: `x`, `w`, `bias` and `y` are valid for the elements named below, nobody writes the
/// former three or touches `y` meanwhile, `1 <= rows <= panel_rows` and `1 <= cols <= panel_width`.
pub(super) struct PanelProduct {
    /// `x [rows, k]`, interleaved: element `(r, i)` is at `x + i * rows + r`.
    pub(super) x: *const f32,
    pub(super) rows: usize,
    /// `k * panel_width` weights, aligned for their format.
    pub(super) w: *const u8,
    pub(super) format: Format,
    pub(super) k: usize,
    /// Element `(r, j)` of `y` is at `y + r * y_stride + j`.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
    pub(super) cols: usize,
    /// Added at the end unless null: `cols` elements.
    pub(super) bias: *const f32,
    /// Whether the product is added to `y` or replaces it.
    pub(super) accumulate: bool,
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

/// Consecutive queries of one head of one sequence.
pub(super) struct AttentionBlock<'a> {
    /// Query `i` is `q[i * q_stride ..][.. head_dim]`.
    pub(super) q: &'a [f32],
    pub(super) q_stride: usize,
    pub(super) queries: usize,
    pub(super) head_dim: usize,
    /// Key `j` is `k[j * k_stride ..][.. head_dim]`.
    pub(super) k: &'a [f32],
    pub(super) k_stride: usize,
    /// Value `j` is `v[j * v_stride ..][.. head_dim]`.
    pub(super) v: &'a [f32],
    pub(super) v_stride: usize,
    /// Keys that exist.
    pub(super) keys: usize,
    /// Position of query 0.
    pub(super) position: usize,
    pub(super) scale: f32,
    pub(super) causal: bool,
    pub(super) window: Option<usize>,
    /// `slope * j` is added to the score of key `j`.
    pub(super) alibi_slope: f32,
    /// Key `j` is visible when `mask[j] != 0`; `keys` flags.
    pub(super) mask: Option<&'a [u8]>,
    /// Result `i` is `y + i * y_stride ..`, `head_dim` elements, valid for writes and touched by nobody else.
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
}

impl AttentionBlock<'_> {
    /// The keys that query `i` may see by its position, the mask aside.
    pub(super) fn visible(&self, i: usize) -> std::ops::Range<usize> {
        let position = self.position + i;
        let end = if self.causal { self.keys.min(position + 1) } else { self.keys };
        match self.window {
            Some(window) => {
                let end = end.min(position.saturating_add(window));
                (position + 1).saturating_sub(window).min(end)..end
            }
            None => 0..end,
        }
    }

    /// Whether the mask lets key `j` be seen.
    pub(super) fn is_unmasked(&self, j: usize) -> bool {
        self.mask.is_none_or(|mask| mask[j] != 0)
    }
}
