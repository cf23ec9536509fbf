//! Products of `f32` inputs with weights of any format, and the order in which panels and rows are visited.
//!
//! Rows of `x` are grouped into blocks of nearly equal size that the panel kernel takes at once, and each block is
//! interleaved, `[k, rows]`, so that the kernel reads it in order.
//! A task owns some panels and some blocks. With few rows (decode) it streams its panels once, several together.
//! With several blocks (prefill) it goes through `k` in steps of whole [`K_BLOCK`]s: the step's part of a panel stays in L2
//! while all blocks pass over it, and so does the step's part of `x` while all panels pass.

use std::ops::Range;
use std::ptr;

use super::split::{Blocks, Task, share};
use crate::args::Rows;
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{Interleave, K_BLOCK, OpTable, PANELS, PanelProduct, RowOrder, Wanted};
use crate::cpu::ops::for_row_ranges;
use crate::cpu::output::Output;
use crate::cpu::packed::PackedMatrix;
use crate::cpu::scratch::with_scratch;
use crate::cpu::unit::MAX_TERMS;
use crate::format::Codes;

/// Rows of `x` that a task takes at most: [`K_BLOCK`] columns of them fill half of a 2 MiB L2.
const TASK_ROWS: usize = 512;
/// Elements of `x` that a step through `k` covers, for the same half of L2. Longer steps visit `y` less often.
const STEP_ELEMENTS: usize = TASK_ROWS * K_BLOCK;
/// Longest step: its part of a panel, widened, takes another 256 KiB.
const MAX_STEP: usize = 2048;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Blocks of rows from which on a step's weights are widened once, in scratch memory, instead of in every block: the
/// conversion takes slots of the multiplying ports.
const WIDEN_BLOCKS: usize = 3;

/// The product, none of whose sizes is zero.
pub(super) fn multiply(
    kernels: &CpuKernels,
    x: Rows<'_>,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    later: &[&PackedMatrix],
    y: &mut [f32],
) {
    let (m, k) = (x.rows, x.cols);
    let (table, y) = (kernels.table, Output::new(y));
    let blocks = Blocks::new(m, table.panel_rows);
    if m == 1 && k.is_multiple_of(w.codes().terms()) {
        // A single row is interleaved as it is.
        return Product { table, x: &x.data[..k], x_k: k, w, bias, y, blocks }.run(kernels, later);
    }
    let x_k = k.next_multiple_of(MAX_TERMS);
    with_scratch(m * x_k, |packed| {
        interleave(kernels, &x, x_k, &blocks, packed);
        Product { table, x: packed, x_k, w, bias, y, blocks }.run(kernels, later);
    });
}

/// Interleaves each block of `x` into `packed [m, x_k]`, the block of rows `a..b` at `a * x_k`, zeros behind `k`.
fn interleave(kernels: &CpuKernels, x: &Rows<'_>, x_k: usize, blocks: &Blocks, packed: &mut [f32]) {
    let output = Output::new(packed);
    let cost = x_k * x.rows.div_ceil(blocks.count());
    for_row_ranges(&kernels.pool, blocks.count(), cost, &|range| {
        for block in range {
            let rows = blocks.rows(block);
            // SAFETY: blocks do not overlap, and each belongs to one task.
            let packed = unsafe { output.range(rows.start * x_k..rows.end * x_k) };
            let (packed, padding) = packed.split_at_mut(x.cols * rows.len());
            padding.fill(0.0);
            // SAFETY: `kernels` exists, so the processor has the instruction set.
            unsafe {
                (kernels.table.interleave)(Interleave {
                    x: &x.data[rows.start * x.stride..],
                    stride: x.stride,
                    rows: rows.len(),
                    width: rows.len(),
                    packed,
                });
            }
        }
    });
}

/// A product whose arguments fit.
struct Product<'a> {
    table: &'static OpTable,
    /// Interleaved, block after block.
    x: &'a [f32],
    /// Elements of a row of `x`, padding included.
    x_k: usize,
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    y: Output<'a>,
    blocks: Blocks,
}

impl Product<'_> {
    fn run(&self, kernels: &CpuKernels, later: &[&PackedMatrix]) {
        let task_blocks = (TASK_ROWS / self.table.panel_rows).max(1);
        share(
            &kernels.pool,
            self.w,
            &self.blocks,
            [task_blocks, PANELS],
            later,
            &|Task { panels, blocks, .. }| {
                if blocks == (0..1) && self.blocks.rows(0).len() <= self.table.few_rows {
                    self.few_rows(panels);
                } else {
                    self.task(panels, blocks);
                }
            },
        );
    }

    /// The only block of rows times some panels.
    fn few_rows(&self, panels: Range<usize>) {
        let all = 0..self.w.k();
        let mut first = panels.start;
        while first < panels.end {
            let count = if panels.end - first >= PANELS { PANELS } else { 1 };
            let weights = (self.w.codes_from(first, 0), self.w.codes());
            self.multiply(first..first + count, 0, &all, weights, Wanted::Weights);
            first += count;
        }
    }

    fn task(&self, panels: Range<usize>, blocks: Range<usize>) {
        let (k, codes, width) = (self.w.k(), self.w.codes(), self.w.panel_width());
        let rows = self.blocks.rows(blocks.end - 1).end - self.blocks.rows(blocks.start).start;
        // Steps begin where sums of blocks do.
        let step = match (self.blocks.count(), self.w.block_len()) {
            (1, _) => k,
            (_, Some(block_len)) if !K_BLOCK.is_multiple_of(block_len) => k,
            _ => (STEP_ELEMENTS / rows).clamp(K_BLOCK, MAX_STEP) / K_BLOCK * K_BLOCK,
        };
        let widen = blocks.len() >= WIDEN_BLOCKS && !matches!(codes, Codes::F32);
        let wide_len = if widen { step.min(k).next_multiple_of(MAX_TERMS) * width } else { 0 };
        with_scratch(wide_len, |wide| {
            for first in (0..k).step_by(step) {
                let terms = first..k.min(first + step);
                for panel in panels.clone() {
                    let mut weights = (self.w.codes_from(panel, first), codes);
                    if widen {
                        let narrow = self.w.panel_codes(panel, &terms);
                        let wide = &mut wide[..narrow.len() / codes.unit_size() * codes.terms()];
                        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
                        unsafe { (self.table.widen)(codes, narrow, wide) };
                        weights = (bytemuck::cast_slice(wide), Codes::F32);
                    }
                    // The first block brings the panel into L2; the others, which find it there, bring the next one.
                    let next =
                        if panel + 1 < panels.end { self.w.panel_codes(panel + 1, &terms) } else { &[] };
                    let share = next.len().div_ceil(LINE_BYTES).div_ceil((blocks.len() - 1).max(1));
                    for (index, block) in blocks.clone().enumerate() {
                        let wanted = match index.checked_sub(1) {
                            Some(earlier) if !next.is_empty() => {
                                Wanted::Lines(next.as_ptr().wrapping_add(earlier * share * LINE_BYTES), share)
                            }
                            _ => Wanted::Weights,
                        };
                        self.multiply(panel..panel + 1, block, &terms, weights, wanted);
                    }
                }
            }
        });
    }

    /// One block of rows times the `terms` of some panels, those of the first of which are in `weights`.
    fn multiply(
        &self,
        panels: Range<usize>,
        block: usize,
        terms: &Range<usize>,
        (weights, codes): (&[u8], Codes),
        wanted: Wanted,
    ) {
        let (n, k, width) = (self.w.n(), self.w.k(), self.w.panel_width());
        let rows = self.blocks.rows(block);
        let first = panels.start * width;
        let units = terms.len().div_ceil(codes.terms());
        assert!(weights.len() >= units * width * codes.unit_size(), "codes of the terms");
        let bias = self.bias.filter(|_| terms.end == k);
        let product = PanelProduct {
            x: self.x[rows.start * self.x_k..rows.end * self.x_k][terms.start * rows.len()..].as_ptr(),
            x_order: RowOrder::Interleaved,
            rows: rows.len(),
            w: weights.as_ptr(),
            codes,
            scales: self.w.panel_scales(panels.start, terms),
            panel_stride: if panels.len() > 1 { self.w.panel_size() } else { 0 },
            k: terms.len(),
            y: self.y.pointer().wrapping_add(rows.start * n + first),
            y_stride: n,
            cols: (panels.len() * width).min(n - first),
            bias: bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
            accumulate: terms.start > 0,
            wanted,
        };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `x` holds `k` columns of the
        // block's rows, from `terms.start` on, padded to whole units; `weights` holds the terms (asserted), aligned
        // because panels and scratch memory start at cache lines, and behind a panel's come those of the following
        // ones; `scales` are those of the terms; `bias` has `n` elements; `y` holds `m * n` elements, of which only this
        // task touches the block's rows in the panels' columns.
        unsafe { (self.table.multiply_panel)(&product) };
    }
}
