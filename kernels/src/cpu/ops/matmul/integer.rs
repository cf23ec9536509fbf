//! Products of 8-bit integers: inputs are rounded once, row by row, and multiplied without rounding.

use std::ops::Range;
use std::ptr;

use super::split::{Blocks, share};
use crate::args::{InputRounding, Rows};
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{INTEGER_TERMS, IntegerProduct, OpTable, PANELS, QuantizeRow, QuantizedRow};
use crate::cpu::ops::for_row_ranges;
use crate::cpu::output::Output;
use crate::cpu::packed::{PackedMatrix, Scales};
use crate::cpu::scratch::with_scratch;

/// Codes of `x` that a task takes at most: half of a 2 MiB L2, so that they stay there while the panels pass.
const TASK_CODES: usize = 1 << 20;
/// Bytes of weights that all blocks of rows meet before the next ones do: a quarter, for the same reason.
const TASK_WEIGHTS: usize = 1 << 19;

/// The product, none of whose sizes is zero.
pub(super) fn multiply(
    kernels: &CpuKernels,
    x: Rows<'_>,
    rounding: InputRounding,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (m, k) = (x.rows, x.cols.next_multiple_of(INTEGER_TERMS));
    let blocks = Blocks::new(m, kernels.table.integer.rows);
    let code_len = m * k / size_of::<f32>();
    // Two words for each row.
    with_scratch(code_len + 2 * m, |scratch| {
        let (codes, rows) = scratch.split_at_mut(code_len);
        quantize(kernels, &x, rounding, &blocks, codes, rows);
        let product = Product {
            table: kernels.table,
            x: bytemuck::cast_slice(codes),
            x_rows: bytemuck::cast_slice(rows),
            k,
            w,
            bias,
            y: Output::new(y),
            blocks,
        };
        let task_blocks = (TASK_CODES / (kernels.table.integer.rows * k)).max(1);
        share(&kernels.pool, w, &product.blocks, task_blocks, &|panels, blocks| product.task(panels, blocks));
    });
}

/// Rounds each block of rows into `codes`, `[k / 64, rows, 64]` bytes for each block.
fn quantize(
    kernels: &CpuKernels,
    x: &Rows<'_>,
    rounding: InputRounding,
    blocks: &Blocks,
    codes: &mut [f32],
    rows_out: &mut [f32],
) {
    let words = x.cols.next_multiple_of(INTEGER_TERMS) / size_of::<f32>();
    let (codes, rows_out) = (Output::new(codes), Output::new(rows_out));
    let cost = 2 * x.cols * x.rows.div_ceil(blocks.count());
    for_row_ranges(&kernels.pool, blocks.count(), cost, &|range| {
        for rows in range.map(|block| blocks.rows(block)) {
            // SAFETY: blocks do not overlap, and each belongs to one task.
            let codes = unsafe { codes.range(rows.start * words..rows.end * words) };
            // SAFETY: as above; two words for each row.
            let rows_out = unsafe { rows_out.range(2 * rows.start..2 * rows.end) };
            let codes = bytemuck::cast_slice_mut::<f32, i8>(codes);
            let rows_out = bytemuck::cast_slice_mut::<f32, QuantizedRow>(rows_out);
            let piece_stride = rows.len() * INTEGER_TERMS;
            for (i, (r, out)) in rows.zip(rows_out).enumerate() {
                let x = &x.data[r * x.stride..][..x.cols];
                let codes = &mut codes[i * INTEGER_TERMS..];
                // SAFETY: `kernels` exists, so the processor has the instruction set.
                *out = unsafe {
                    (kernels.table.integer.quantize)(QuantizeRow { x, rounding, codes, piece_stride })
                };
            }
        }
    });
}

struct Product<'a> {
    table: &'static OpTable,
    /// Block after block.
    x: &'a [i8],
    x_rows: &'a [QuantizedRow],
    /// Terms, padding included.
    k: usize,
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    y: Output<'a>,
    blocks: Blocks,
}

impl Product<'_> {
    fn task(&self, panels: Range<usize>, blocks: Range<usize>) {
        let together = (TASK_WEIGHTS / self.w.panel_size()).max(PANELS);
        for first in panels.clone().step_by(together) {
            for block in blocks.clone() {
                self.multiply(first..panels.end.min(first + together), block);
            }
        }
    }

    /// One block of rows times some panels.
    fn multiply(&self, panels: Range<usize>, block: usize) {
        let (n, width) = (self.w.n(), self.w.panel_width());
        let rows = self.blocks.rows(block);
        let first = panels.start * width;
        let all = 0..self.w.k();
        let Scales::Rows(w_scales) = self.w.panel_scales(panels.start, &all) else { return };
        assert_eq!(self.w.units() * 4, self.k, "units of w");
        assert!(panels.end <= self.w.panels(), "panels of w");
        let product = IntegerProduct {
            x: self.x[rows.start * self.k..rows.end * self.k].as_ptr(),
            rows: rows.len(),
            x_rows: self.x_rows[rows.clone()].as_ptr(),
            panels: panels.len(),
            w: self.w.codes_from(panels.start, 0).as_ptr(),
            w_scales,
            panel_stride: self.w.panel_size(),
            k: self.k,
            y: self.y.pointer().wrapping_add(rows.start * n + first),
            y_stride: n,
            cols: (panels.len() * width).min(n - first),
            bias: self.bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
        };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `x` and `x_rows` are those of the
        // block; the panels exist and hold `k` terms, padding included (asserted); `bias` has `n` elements; `y` holds
        // `m * n` elements, of which only this task touches the block's rows in the panels' columns.
        unsafe { (self.table.integer.multiply)(&product) };
    }
}
