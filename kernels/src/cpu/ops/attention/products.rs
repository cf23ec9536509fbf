//! The two products of attention when many queries share keys and values: in `f32`, or on tiles of bf16.

use std::ptr;

use crate::args::InputRounding;
use crate::cpu::op_table::{
    BrainKernels, Ending, FloatRows, Interleave, OpTable, PIECE_BYTES, PanelProduct, RoundRow,
    RoundedProduct, RowOrder, SCORES_STRIDE, Wanted,
};
use crate::cpu::packed::Scales;
use crate::cpu::prefetch;
use crate::format::Codes;

/// Keys of a block: their panels, keys and values, fill 128 KiB at `head_dim` 128, well within L2.
pub(super) const KEY_BLOCK: usize = SCORES_STRIDE;

/// Some rows of scores, then of weights, for some queries of a head and a block of keys.
pub(super) struct ScoreRows<'a> {
    /// `[rows, KEY_BLOCK]`.
    pub(super) scores: &'a mut [f32],
    pub(super) rows: usize,
    /// Keys of the block.
    pub(super) count: usize,
}

/// Floats of memory that packed rows take.
pub(super) struct Sizes {
    /// A query.
    pub(super) query: usize,
    /// A block's keys.
    pub(super) keys: usize,
    /// A block's values.
    pub(super) values: usize,
    /// Whatever the products need besides.
    pub(super) work: usize,
}

/// How queries, keys, values and weights are packed and multiplied.
pub(super) trait Products: Sync {
    /// Most queries of a product.
    fn rows(&self) -> usize;
    fn sizes(&self) -> Sizes;
    /// Packs so many queries for one product.
    fn pack_queries(&self, queries: FloatRows<'_>, rows: usize, packed: &mut [f32]);
    /// Packs the `count` keys of a block.
    fn pack_keys(&self, keys: FloatRows<'_>, count: usize, packed: &mut [f32], work: &mut [f32]);
    /// Packs the `count` values of a block.
    fn pack_values(&self, values: FloatRows<'_>, count: usize, packed: &mut [f32]);
    /// `scores = q keys^T`
    fn score(&self, q: &[f32], keys: &[f32], scores: ScoreRows<'_>);
    /// `y [rows, head_dim] += weights values`
    fn add_weighted(&self, weights: ScoreRows<'_>, values: &[f32], y: &mut [f32], work: &mut [f32]);
}

/// On the panel kernel.
pub(super) struct FloatProducts {
    pub(super) table: &'static OpTable,
    pub(super) head_dim: usize,
}

impl Products for FloatProducts {
    fn rows(&self) -> usize {
        self.table.panel_rows
    }

    fn sizes(&self) -> Sizes {
        let (d, width) = (self.head_dim, self.table.panel_width);
        Sizes { query: d, keys: KEY_BLOCK * d, values: KEY_BLOCK * d.next_multiple_of(width), work: 0 }
    }

    fn pack_queries(&self, queries: FloatRows<'_>, rows: usize, packed: &mut [f32]) {
        let FloatRows { data, stride } = queries;
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
        unsafe { (self.table.interleave)(Interleave { x: data, stride, rows, width: rows, packed }) };
    }

    fn pack_keys(&self, keys: FloatRows<'_>, count: usize, packed: &mut [f32], _work: &mut [f32]) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        for (first, packed) in (0..count).step_by(width).zip(packed.chunks_exact_mut(width * d)) {
            let (x, stride) = (&keys.data[first * keys.stride..], keys.stride);
            let interleave = Interleave { x, stride, rows: width.min(count - first), width, packed };
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
            unsafe { (self.table.interleave)(interleave) };
        }
    }

    fn pack_values(&self, values: FloatRows<'_>, count: usize, packed: &mut [f32]) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        for (panel, packed) in packed.chunks_exact_mut(KEY_BLOCK * width).enumerate() {
            let columns = panel * width..d.min((panel + 1) * width);
            for (j, packed) in (0..count).zip(packed.chunks_exact_mut(width)) {
                let row = &values.data[j * values.stride..][columns.clone()];
                // Pieces of a constant length compile to moves, not calls.
                let (pieces, tail) = row.as_chunks::<8>();
                let (packed_pieces, packed_tail) = packed.split_at_mut(pieces.len() * 8);
                for (packed, piece) in packed_pieces.as_chunks_mut::<8>().0.iter_mut().zip(pieces) {
                    *packed = *piece;
                }
                if !packed_tail.is_empty() {
                    packed_tail[..tail.len()].copy_from_slice(tail);
                    packed_tail[tail.len()..].fill(0.0);
                }
            }
        }
    }

    fn score(&self, q: &[f32], keys: &[f32], scores: ScoreRows<'_>) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        let ScoreRows { scores, rows, count } = scores;
        assert!(q.len() >= rows * d && scores.len() >= rows * KEY_BLOCK && count <= KEY_BLOCK, "scores");
        for (panel, packed) in keys.chunks_exact(d * width).take(count.div_ceil(width)).enumerate() {
            let product = PanelProduct {
                x: q.as_ptr(),
                x_order: RowOrder::Interleaved,
                rows,
                w: packed.as_ptr().cast(),
                codes: Codes::F32,
                scales: Scales::None,
                panel_stride: 0,
                k: d,
                y: scores[panel * width..].as_mut_ptr(),
                y_stride: KEY_BLOCK,
                cols: width,
                bias: ptr::null(),
                accumulate: false,
                wanted: Wanted::Weights,
            };
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `q` is an interleaved block of
            // `rows` rows of `d` (asserted), `packed` a panel of `d` terms, and rows of scores are `KEY_BLOCK` long, a
            // multiple of the width.
            unsafe { (self.table.multiply_panel)(&product) };
        }
    }

    fn add_weighted(&self, weights: ScoreRows<'_>, values: &[f32], y: &mut [f32], _work: &mut [f32]) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        let ScoreRows { scores, rows, count } = weights;
        assert!(scores.len() >= rows * KEY_BLOCK && count <= KEY_BLOCK && y.len() >= rows * d, "weights");
        for (panel, packed) in values.chunks_exact(KEY_BLOCK * width).enumerate() {
            let product = PanelProduct {
                x: scores.as_ptr(),
                x_order: RowOrder::Scores,
                rows,
                w: packed.as_ptr().cast(),
                codes: Codes::F32,
                scales: Scales::None,
                panel_stride: 0,
                k: count,
                y: y[panel * width..].as_mut_ptr(),
                y_stride: d,
                cols: width.min(d - panel * width),
                bias: ptr::null(),
                accumulate: true,
                wanted: Wanted::Weights,
            };
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `scores` holds `rows` rows of
            // `count <= KEY_BLOCK`, `packed` a panel of `KEY_BLOCK` terms, and `y` `rows` rows of `d`, of which these are
            // `cols` columns (the former and the latter asserted).
            unsafe { (self.table.multiply_panel)(&product) };
        }
    }
}

/// On tiles of bf16: queries, keys, values and weights are rounded, sums are `f32`.
pub(super) struct BrainProducts {
    pub(super) table: &'static OpTable,
    pub(super) brain: &'static BrainKernels,
    pub(super) head_dim: usize,
}

/// Pairs of bf16, each a float of memory, in a piece.
const PIECE_PAIRS: usize = PIECE_BYTES / size_of::<f32>();

/// Rows from one in use to one that is fetched: the lines of so many rows may be on their way at once.
pub(super) const ROWS_AHEAD: usize = 6;
/// Floats of a cache line.
pub(super) const LINE: usize = 16;

/// Fetches the row that comes a little later: hardware does not foresee lines that lie so far from each other.
fn fetch_ahead(row: &[f32], stride: usize) {
    for line in row.chunks(LINE) {
        prefetch::read(line.as_ptr().wrapping_add(ROWS_AHEAD * stride));
    }
}

impl BrainProducts {
    /// Pieces of so many elements.
    fn pieces(elements: usize) -> usize {
        elements.div_ceil(2 * PIECE_PAIRS)
    }

    /// Rounds a row into pieces, each the first of so many pairs.
    fn round(&self, x: &[f32], pairs: &mut [f32], piece_stride: usize) {
        let codes = bytemuck::cast_slice_mut(pairs);
        let piece_stride = piece_stride * size_of::<f32>();
        let row = RoundRow { x, rounding: InputRounding::None, codes, piece_stride };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
        unsafe { (self.brain.product.round)(row) };
    }

    /// Rounded rows times so many panels, `panel_stride` floats apart, into rows of `y` that are `y_stride` long.
    fn multiply(
        &self,
        (x, rows): (&[f32], usize),
        (w, panel_stride): (&[f32], usize),
        pieces: usize,
        (y, y_stride, cols): (&mut [f32], usize, usize),
    ) {
        let (width, panels) = (self.table.panel_width, cols.div_ceil(self.table.panel_width));
        assert!(x.len() >= rows * pieces * PIECE_PAIRS, "pieces of x");
        assert!(w.len() >= (panels - 1) * panel_stride + pieces * PIECE_PAIRS * width, "panels");
        assert!(cols <= y_stride && y.len() >= (rows - 1) * y_stride + cols, "rows of y");
        let product = RoundedProduct {
            x: x.as_ptr().cast(),
            rows,
            x_rows: ptr::null(),
            panels,
            w: w.as_ptr().cast(),
            w_scales: ptr::null(),
            panel_stride: panel_stride * size_of::<f32>(),
            pieces,
            y: y.as_mut_ptr(),
            y_stride,
            y_pieces: ptr::null_mut(),
            cols,
            bias: ptr::null(),
            ending: Ending::NONE,
            past_caches: false,
            wanted: (ptr::null(), 0),
        };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set; the sizes are asserted, and products
        // of bf16 read no scales.
        unsafe { (self.brain.product.multiply)(&product) };
    }
}

impl Products for BrainProducts {
    fn rows(&self) -> usize {
        self.brain.product.rows
    }

    fn sizes(&self) -> Sizes {
        let (d, width) = (self.head_dim, self.table.panel_width);
        let query = Self::pieces(d) * PIECE_PAIRS;
        let weights = self.rows() * KEY_BLOCK / 2;
        Sizes {
            query,
            keys: KEY_BLOCK * query,
            values: KEY_BLOCK / 2 * d.next_multiple_of(width),
            work: (width * query).max(weights + self.rows() * d),
        }
    }

    fn pack_queries(&self, queries: FloatRows<'_>, rows: usize, packed: &mut [f32]) {
        let FloatRows { data, stride } = queries;
        for r in 0..rows {
            let x = &data[r * stride..][..self.head_dim];
            fetch_ahead(x, stride);
            self.round(x, &mut packed[r * PIECE_PAIRS..], rows * PIECE_PAIRS);
        }
    }

    /// Rounds the keys of a panel, whose pairs are then transposed as if they were floats.
    fn pack_keys(&self, keys: FloatRows<'_>, count: usize, packed: &mut [f32], work: &mut [f32]) {
        let (width, stride) = (self.table.panel_width, self.sizes().query);
        for (first, packed) in (0..count).step_by(width).zip(packed.chunks_exact_mut(width * stride)) {
            let rows = width.min(count - first);
            for (j, pairs) in work.chunks_exact_mut(stride).take(rows).enumerate() {
                let x = &keys.data[(first + j) * keys.stride..][..self.head_dim];
                fetch_ahead(x, keys.stride);
                self.round(x, pairs, PIECE_PAIRS);
            }
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
            unsafe { (self.table.interleave)(Interleave { x: work, stride, rows, width, packed }) };
        }
    }

    /// Pairs of neighbouring values, panel after panel; zeros fill the last piece.
    fn pack_values(&self, values: FloatRows<'_>, count: usize, packed: &mut [f32]) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        for (panel, packed) in packed.chunks_exact_mut(KEY_BLOCK / 2 * width).enumerate() {
            let columns = panel * width..d.min((panel + 1) * width);
            let row = |j: usize| match j < count {
                true => &values.data[j * values.stride..][columns.clone()],
                false => &[],
            };
            let pairs = Self::pieces(count) * PIECE_PAIRS;
            for (pair, packed) in packed.chunks_exact_mut(width).take(pairs).enumerate() {
                fetch_ahead(row(2 * pair), values.stride);
                fetch_ahead(row(2 * pair + 1), values.stride);
                // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
                unsafe { (self.brain.pair)(row(2 * pair), row(2 * pair + 1), packed) };
            }
        }
    }

    fn score(&self, q: &[f32], keys: &[f32], scores: ScoreRows<'_>) {
        let (width, stride) = (self.table.panel_width, self.sizes().query);
        let ScoreRows { scores, rows, count } = scores;
        let cols = count.next_multiple_of(width);
        let pieces = Self::pieces(self.head_dim);
        self.multiply((q, rows), (keys, width * stride), pieces, (scores, KEY_BLOCK, cols));
    }

    fn add_weighted(&self, weights: ScoreRows<'_>, values: &[f32], y: &mut [f32], work: &mut [f32]) {
        let (d, width) = (self.head_dim, self.table.panel_width);
        let ScoreRows { scores, rows, count } = weights;
        let (pairs, sums) = work.split_at_mut(self.rows() * KEY_BLOCK / 2);
        for (r, scores) in scores.chunks_exact(KEY_BLOCK).take(rows).enumerate() {
            self.round(&scores[..count], &mut pairs[r * PIECE_PAIRS..], rows * PIECE_PAIRS);
        }
        let sums = &mut sums[..rows * d];
        self.multiply((pairs, rows), (values, KEY_BLOCK / 2 * width), Self::pieces(count), (sums, d, d));
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
        unsafe {
            (self.table.weighted_sum)(
                &[1.0],
                FloatRows { data: sums, stride: 0 }.into(),
                false,
                &mut y[..rows * d],
            )
        };
    }
}
