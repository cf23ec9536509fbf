//! `y = x w^T + bias`: checks, and the order in which panels and rows are visited.
//!
//! Rows of `x` are grouped into blocks of nearly equal size that the panel kernel takes at once, and each block is
//! interleaved, `[k, rows]`, so that the kernel reads it in order.
//! A task owns some panels and some blocks. With one block (decode) it streams each panel once, from end to end.
//! With several (prefill) it goes through `k` in steps of whole [`K_BLOCK`]s: the step's part of a panel stays in L2 while
//! all blocks pass over it, and so does the step's part of `x` while all panels pass.

use std::ops::Range;
use std::ptr;

use crate::args::{InputRounding, MatMul, Rows};
use crate::cpu::element::Element;
use crate::cpu::op_table::{Interleave, K_BLOCK, OpTable, PanelProduct, RowOrder, Wanted};
use crate::cpu::output::Output;
use crate::cpu::packed::PackedMatrix;
use crate::cpu::scratch::with_scratch;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;
use crate::reference::round_row;

const OP: &str = "matmul";

/// Rows of `x` that a task takes at most: [`K_BLOCK`] columns of them fill half of a 2 MiB L2.
const TASK_ROWS: usize = 512;
/// Elements of `x` that a step through `k` covers, for the same half of L2. Longer steps visit `y` less often.
const STEP_ELEMENTS: usize = TASK_ROWS * K_BLOCK;
/// Longest step: its part of a panel, widened, takes another 256 KiB.
const MAX_STEP: usize = 2048;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Tasks per thread: enough to balance threads of unequal speed.
const TASKS_PER_THREAD: usize = 6;
/// Blocks of rows from which on a step's weights are widened once, in scratch memory, instead of in every block: the
/// conversion takes slots of the multiplying ports.
const WIDEN_BLOCKS: usize = 3;
/// Flops below which a second thread does not pay, reading weights counted as [`FLOPS_PER_BYTE`]: about 5 us of one
/// thread, ten times a fork and join.
const BREAK_EVEN: usize = 1_000_000;
/// What a core can compute while it reads a byte of weights from L3.
const FLOPS_PER_BYTE: usize = 8;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: MatMul<'_>) -> Result<()> {
    let MatMul { x, rounding, w, bias, y } = args;
    let (m, n, k) = (x.rows, w.n(), w.k());
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "columns of x", k, x.cols)?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", n, y.cols)?;
    check::equal(OP, "panel width of w", kernels.table.panel_width, w.panel_width())?;
    if let Some(bias) = bias {
        check::equal(OP, "bias", n, bias.len())?;
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let y = &mut y.data[..m * n];
    if k == 0 {
        for y in y.chunks_exact_mut(n) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
        }
        return Ok(());
    }
    if rounding != InputRounding::None {
        return with_scratch(m * k, |rounded| {
            for (r, rounded) in rounded.chunks_exact_mut(k).enumerate() {
                rounded.copy_from_slice(&x.data[r * x.stride..][..k]);
                round_row(rounded, rounding, w.format());
            }
            multiply(kernels, Rows { data: rounded, rows: m, cols: k, stride: k }, w, bias, y);
            Ok(())
        });
    }
    multiply(kernels, x, w, bias, y);
    Ok(())
}

/// The product, none of whose sizes is zero.
fn multiply(kernels: &CpuKernels, x: Rows<'_>, w: &PackedMatrix, bias: Option<&[f32]>, y: &mut [f32]) {
    let (m, k) = (x.rows, x.cols);
    let blocks = Blocks::new(m, kernels.table.panel_rows);
    let y = Output::new(y);
    if m == 1 {
        // A single row is interleaved as it is.
        Product { table: kernels.table, x: &x.data[..k], w, bias, y, m, blocks }.run(kernels);
    } else {
        with_scratch(m * k, |packed| {
            interleave(kernels, &x, &blocks, packed);
            Product { table: kernels.table, x: packed, w, bias, y, m, blocks }.run(kernels);
        });
    }
}

/// `0..m` in blocks of at most a given number of rows, as equal as can be.
pub(super) struct Blocks {
    m: usize,
    count: usize,
}

impl Blocks {
    pub(super) fn new(m: usize, max_rows: usize) -> Self {
        Self { m, count: m.div_ceil(max_rows) }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn rows(&self, block: usize) -> Range<usize> {
        self.m * block / self.count..self.m * (block + 1) / self.count
    }
}

/// Interleaves each block of `x` into `packed [m, k]`, the block of rows `a..b` at `a * k`.
fn interleave(kernels: &CpuKernels, x: &Rows<'_>, blocks: &Blocks, packed: &mut [f32]) {
    let k = x.cols;
    let output = Output::new(packed);
    super::for_row_ranges(&kernels.pool, blocks.count, k * x.rows.div_ceil(blocks.count), &|range| {
        for block in range {
            let rows = blocks.rows(block);
            // SAFETY: blocks do not overlap, and each belongs to one task.
            let packed = unsafe { output.range(rows.start * k..rows.end * k) };
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
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    y: Output<'a>,
    m: usize,
    blocks: Blocks,
}

impl Product<'_> {
    fn run(&self, kernels: &CpuKernels) {
        let panels = self.w.n().div_ceil(self.w.panel_width());
        let flops = 2 * self.m * self.w.k() * panels * self.w.panel_width();
        let work = flops.saturating_add(self.w.size_bytes() * FLOPS_PER_BYTE);
        if work < BREAK_EVEN || kernels.threads() == 1 {
            for block in (0..self.blocks.count).step_by(self.task_blocks()) {
                self.task(0..panels, block..self.blocks.count.min(block + self.task_blocks()));
            }
            return;
        }
        let tasks = kernels.threads() * TASKS_PER_THREAD;
        // Few panels leave threads idle unless the rows are shared out too.
        let row_tasks = self.blocks.count.div_ceil(self.task_blocks()).max(tasks.div_ceil(panels));
        let row_tasks = row_tasks.min(self.blocks.count);
        let panel_tasks = tasks.div_ceil(row_tasks).min(panels);
        kernels.pool.run(row_tasks * panel_tasks, &|task| {
            let (row_task, panel_task) = (task / panel_tasks, task % panel_tasks);
            let part = |count: usize, tasks: usize, i: usize| count * i / tasks..count * (i + 1) / tasks;
            self.task(part(panels, panel_tasks, panel_task), part(self.blocks.count, row_tasks, row_task));
        });
    }

    /// Blocks that a task takes at most.
    fn task_blocks(&self) -> usize {
        (TASK_ROWS / self.table.panel_rows).max(1)
    }

    fn task(&self, panels: Range<usize>, blocks: Range<usize>) {
        let (k, element) = (self.w.k(), self.w.element());
        let rows = self.blocks.rows(blocks.end - 1).end - self.blocks.rows(blocks.start).start;
        let step = match self.blocks.count {
            1 => k,
            _ => (STEP_ELEMENTS / rows).clamp(K_BLOCK, MAX_STEP) / K_BLOCK * K_BLOCK,
        };
        let widen = blocks.len() >= WIDEN_BLOCKS && element != Element::F32;
        let wide_len = if widen { step.min(k) * self.w.panel_width() } else { 0 };
        with_scratch(wide_len, |wide| {
            for first in (0..k).step_by(step) {
                let terms = first..k.min(first + step);
                for panel in panels.clone() {
                    let (mut weights, mut element) = (self.weights(panel, &terms), element);
                    if widen {
                        let wide = &mut wide[..terms.len() * self.w.panel_width()];
                        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
                        unsafe { (self.table.widen)(element, weights, wide) };
                        (weights, element) = (bytemuck::cast_slice(wide), Element::F32);
                    }
                    // The first block brings the panel into L2; the others, which find it there, bring the next one.
                    let next = if panel + 1 < panels.end { self.weights(panel + 1, &terms) } else { &[] };
                    let share = next.len().div_ceil(LINE_BYTES).div_ceil((blocks.len() - 1).max(1));
                    for (index, block) in blocks.clone().enumerate() {
                        let wanted = match index.checked_sub(1) {
                            Some(earlier) if !next.is_empty() => {
                                Wanted::Lines(next.as_ptr().wrapping_add(earlier * share * LINE_BYTES), share)
                            }
                            _ => Wanted::Weights,
                        };
                        self.multiply(panel, block, &terms, (weights, element), wanted);
                    }
                }
            }
        });
    }

    /// The `terms` of one panel.
    fn weights(&self, panel: usize, terms: &Range<usize>) -> &[u8] {
        let term_size = self.w.panel_width() * self.w.element().size();
        let panel = &self.w.bytes()[panel * self.w.panel_size()..][..self.w.panel_size()];
        &panel[terms.start * term_size..terms.end * term_size]
    }

    /// One block of rows times the `terms` of one panel, which are in `weights`.
    fn multiply(
        &self,
        panel: usize,
        block: usize,
        terms: &Range<usize>,
        (weights, element): (&[u8], Element),
        wanted: Wanted,
    ) {
        let (n, k, width) = (self.w.n(), self.w.k(), self.w.panel_width());
        let rows = self.blocks.rows(block);
        let first = panel * width;
        assert_eq!(weights.len(), terms.len() * width * element.size(), "weights of the terms");
        let bias = self.bias.filter(|_| terms.end == k);
        let product = PanelProduct {
            x: self.x[rows.start * k..rows.end * k][terms.start * rows.len()..].as_ptr(),
            x_order: RowOrder::Interleaved,
            rows: rows.len(),
            w: weights.as_ptr(),
            element,
            k: terms.len(),
            y: self.y.pointer().wrapping_add(rows.start * n + first),
            y_stride: n,
            cols: width.min(n - first),
            bias: bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
            accumulate: terms.start > 0,
            wanted,
        };
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `x` holds `k` columns of the
        // block's rows, from `terms.start` on; `weights` holds the terms (asserted), aligned because panels and scratch
        // memory start at cache lines; `bias` has `n` elements; `y` holds `m * n` elements, of which only this task
        // touches the block's rows in the panel's columns.
        unsafe { (self.table.multiply_panel)(&product) };
    }
}
