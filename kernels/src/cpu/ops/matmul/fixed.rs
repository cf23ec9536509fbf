//! Products of inputs in fixed point with weights of few bits: both become integers, and the sums of a block are exact.
//!
//! Each row of `x` is split once into three digits of 8 bits under a scale of its own, a power of two, and each digit
//! meets the weights in instructions that multiply bytes.
//! An input moves by at most `2^-23` of the largest magnitude of its row, a bit more than it would in a sum of floats;
//! weights do not move.
//! A row that holds an infinity or a NaN has no such scale and is multiplied as floats.

use std::ops::Range;
use std::ptr;

use super::float;
use super::split::{Blocks, Task, share, share_joined};
use crate::args::Rows;
use crate::cpu::CpuKernels;
use crate::cpu::grid::Grid;
use crate::cpu::op_table::{DIGITS, FIXED_PANELS, FixedKernels, FixedProduct, PIECE_BYTES, SplitRow};
use crate::cpu::ops::for_row_ranges;
use crate::cpu::output::Output;
use crate::cpu::packed::PackedMatrix;
use crate::cpu::scratch::with_scratch;

/// Terms of a block of weights whose scale is that of the row.
const ROW_BLOCK: usize = 128;
/// Rows of `x` that a task takes at most: their digits stay in L2 while the panels pass.
const TASK_ROWS: usize = 128;

/// What the inputs are multiplied by, and where that goes.
pub(super) struct Part<'a> {
    pub(super) w: &'a PackedMatrix,
    pub(super) bias: Option<&'a [f32]>,
    /// `[m, n]`.
    pub(super) y: Output<'a>,
}

/// The products, none of whose sizes is zero, with weights on a grid: several of one format if rows are few.
pub(super) fn multiply(
    kernels: &CpuKernels,
    (fixed, grid): (&FixedKernels, Grid),
    x: Rows<'_>,
    parts: &[Part<'_>],
    later: &[&PackedMatrix],
) {
    let (m, k) = (x.rows, x.cols);
    let Some(Part { w, .. }) = parts.first() else { return };
    let block_len = w.block_len().unwrap_or(ROW_BLOCK);
    let row_words = k.div_ceil(PIECE_BYTES) * DIGITS * PIECE_BYTES / size_of::<f32>();
    let row_sums = k.div_ceil(block_len) * DIGITS;
    with_scratch(m * (row_words + row_sums + 1), |scratch| {
        let (digits, rest) = scratch.split_at_mut(m * row_words);
        let (sums, scales) = rest.split_at_mut(m * row_sums);
        let blocks = Blocks::new(m, fixed.rows);
        let inputs = Inputs { fixed, grid, block_len, row_words, row_sums, blocks };
        inputs.split(kernels, &x, [&mut *digits, &mut *sums, &mut *scales]);
        let inputs = &inputs;
        let product = |Part { w, bias, y }: &Part<'_>, panels, blocks| {
            Product { inputs, digits, sums, scales, w, bias: *bias, y }.task(panels, blocks);
        };
        match parts {
            [part] => {
                let at_once = [TASK_ROWS / fixed.rows, FIXED_PANELS];
                share(
                    &kernels.pool,
                    w,
                    &inputs.blocks,
                    at_once,
                    later,
                    &|Task { panels, blocks, .. }| {
                        product(part, panels, blocks);
                    },
                );
            }
            _ => {
                let weights = parts.iter().map(|part| part.w);
                share_joined(&kernels.pool, weights, &inputs.blocks, FIXED_PANELS, later, &|part, panels| {
                    product(&parts[part], panels, 0..1);
                });
            }
        }
        for r in (0..m).filter(|r| scales[*r].is_nan()) {
            let row = Rows { data: &x.data[r * x.stride..][..k], rows: 1, cols: k, stride: k };
            for Part { w, bias, y } in parts {
                // SAFETY: all tasks have ended.
                let y = unsafe { y.range(r * w.n()..(r + 1) * w.n()) };
                float::multiply(kernels, row, w, *bias, &[], y);
            }
        }
    });
}

/// How the rows of `x` are laid out, block after block of them.
struct Inputs<'a> {
    fixed: &'a FixedKernels,
    grid: Grid,
    /// Terms whose digits are summed as integers.
    block_len: usize,
    /// Words of a row's digits.
    row_words: usize,
    /// Sums of a row's digits.
    row_sums: usize,
    blocks: Blocks,
}

impl Inputs<'_> {
    /// Splits each row into digits `[pieces, rows, DIGITS * 64]`, sums `[blocks, rows, DIGITS]` and scales `[rows]`.
    fn split(&self, kernels: &CpuKernels, x: &Rows<'_>, outputs: [&mut [f32]; 3]) {
        let outputs = outputs.map(Output::new);
        let cost = 4 * x.cols * x.rows.div_ceil(self.blocks.count());
        for_row_ranges(&kernels.pool, self.blocks.count(), cost, &|range| {
            for rows in range.map(|block| self.blocks.rows(block)) {
                let part = |len: usize| rows.start * len..rows.end * len;
                // SAFETY: blocks do not overlap, and each belongs to one task.
                let [digits, sums, scales] = unsafe {
                    [
                        outputs[0].range(part(self.row_words)),
                        outputs[1].range(part(self.row_sums)),
                        outputs[2].range(part(1)),
                    ]
                };
                let digits = bytemuck::cast_slice_mut::<f32, i8>(digits);
                let sums = bytemuck::cast_slice_mut::<f32, i32>(sums);
                for (i, (r, scale)) in rows.clone().zip(scales).enumerate() {
                    let row = SplitRow {
                        x: &x.data[r * x.stride..][..x.cols],
                        digits: &mut digits[i * DIGITS * PIECE_BYTES..],
                        piece_stride: rows.len() * DIGITS * PIECE_BYTES,
                        sums: &mut sums[i * DIGITS..],
                        sum_stride: rows.len() * DIGITS,
                        block_len: self.block_len,
                        grid: self.grid,
                        scale,
                    };
                    // SAFETY: `kernels` exists, so the processor has the instruction set.
                    unsafe { (self.fixed.split)(row) };
                }
            }
        });
    }
}

struct Product<'a> {
    inputs: &'a Inputs<'a>,
    digits: &'a [f32],
    sums: &'a [f32],
    scales: &'a [f32],
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    y: &'a Output<'a>,
}

impl Product<'_> {
    /// A single block of rows meets several panels at a time, which come from memory; many blocks stay with a panel that
    /// fits the caches.
    fn task(&self, panels: Range<usize>, blocks: Range<usize>) {
        let together = if blocks.len() == 1 { FIXED_PANELS } else { 1 };
        for first in panels.clone().step_by(together) {
            for block in blocks.clone() {
                self.multiply(first..panels.end.min(first + together), block);
            }
        }
    }

    /// One block of rows times some panels.
    fn multiply(&self, panels: Range<usize>, block: usize) {
        let (n, k, width, inputs) = (self.w.n(), self.w.k(), self.w.panel_width(), self.inputs);
        let rows = inputs.blocks.rows(block);
        let first = panels.start * width;
        assert!(panels.end <= self.w.panels(), "panels of w");
        let product = FixedProduct {
            x: self.digits[rows.start * inputs.row_words..rows.end * inputs.row_words].as_ptr().cast(),
            x_sums: self.sums[rows.start * inputs.row_sums..rows.end * inputs.row_sums].as_ptr().cast(),
            x_scales: self.scales[rows.clone()].as_ptr(),
            rows: rows.len(),
            panels: panels.len(),
            w: self.w.codes_from(panels.start, 0).as_ptr(),
            grid: inputs.grid,
            scales: self.w.panel_scales(panels.start, &(0..k)),
            panel_stride: self.w.panel_size(),
            k,
            block_len: inputs.block_len,
            y: self.y.pointer().wrapping_add(rows.start * n + first),
            y_stride: n,
            cols: (panels.len() * width).min(n - first),
            bias: self.bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
        };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. Digits, sums and scales are those of
        // the block; the panels exist (asserted) and hold `k` terms; `bias` has `n` elements; `y` holds `m * n`
        // elements, of which only this task touches the block's rows in the panels' columns.
        unsafe { (inputs.fixed.multiply)(&product) };
    }
}
