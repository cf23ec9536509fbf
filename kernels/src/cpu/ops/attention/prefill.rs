//! Many queries per key-value head: bound by arithmetic.
//!
//! A task takes a range of queries of all heads that share a key-value head and goes through the keys in blocks
//! (Dao et al. 2022). A block's keys and values are packed once, as panels like those of weights, and serve all the
//! queries of the task; the two products then run on the panel kernel:
//! `scores [rows, keys] = q [rows, head_dim] keys^T` and `y [rows, head_dim] += weights [rows, keys] values`.
//! Blocks that no query of a row block sees are skipped.

use std::ops::Range;
use std::ptr;

use super::{Inputs, KeyValueHead, tokens_from};
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{
    Interleave, OpTable, PanelProduct, RowOrder, SCORES_STRIDE, Scores, TokenRows, Wanted,
};
use crate::cpu::ops::matmul::Blocks;
use crate::cpu::output::Output;
use crate::cpu::packed::Scales;
use crate::cpu::scratch::with_scratch;
use crate::format::Codes;

/// Keys of a block: their panels, keys and values, fill 128 KiB at `head_dim` 128, well within L2.
const KEY_BLOCK: usize = SCORES_STRIDE;
/// Queries of a task: at most; and at least, when there are few tasks. Packing a block costs about as much as working
/// on it for four queries.
const MAX_TASK_QUERIES: usize = 256;
const MIN_TASK_QUERIES: usize = 32;
/// Tasks per thread that balance threads of unequal speed and causal tasks of unequal length.
const TASKS_PER_THREAD: usize = 4;
/// Flops below which a second thread does not pay: about 5 us.
const BREAK_EVEN: usize = 500_000;

pub(super) fn run(kernels: &CpuKernels, inputs: &Inputs<'_>, y: &mut [f32]) {
    let Inputs { batch, tokens, kv_heads, .. } = *inputs;
    let mut queries = MAX_TASK_QUERIES;
    let tasks = |queries: usize| tokens.div_ceil(queries) * batch * kv_heads;
    while queries > MIN_TASK_QUERIES && tasks(queries) < TASKS_PER_THREAD * kernels.threads() {
        queries /= 2;
    }
    let ranges = Blocks::new(tokens, queries);
    let output = Output::new(y);
    let task = |task: usize| {
        let (b, kv_head) = (task / kv_heads % batch, task % kv_heads);
        // The last queries come first: with a causal mask they have the most to do.
        let queries = ranges.rows(ranges.count() - 1 - task / kv_heads / batch);
        Task::new(kernels.table, inputs, b, kv_head, queries).run(&output);
    };
    let keys: usize = (0..batch).map(|b| inputs.keys(b)).sum();
    let flops = keys.saturating_mul(4 * tokens * inputs.heads * inputs.head_dim);
    if flops < BREAK_EVEN {
        (0..tasks(queries)).for_each(task);
    } else {
        kernels.pool.run(ranges.count() * batch * kv_heads, &task);
    }
}

/// Some queries of all heads that share a key-value head.
struct Task<'a> {
    table: &'static OpTable,
    inputs: &'a Inputs<'a>,
    b: usize,
    head: KeyValueHead<'a>,
    queries: Range<usize>,
    /// The queries in blocks that the panel kernel takes at once.
    blocks: Blocks,
}

/// The memory of a task.
struct Buffers<'a> {
    /// Queries, interleaved block by block, `[group, queries, head_dim]` in all.
    q: &'a mut [f32],
    /// Panels `[head_dim, panel_width]` of a block's keys.
    keys: &'a mut [f32],
    /// Panels `[KEY_BLOCK, panel_width]` of a block's values, one for each `panel_width` of `head_dim`.
    values: &'a mut [f32],
    /// Scores, then weights, `[panel_rows, KEY_BLOCK]`.
    scores: &'a mut [f32],
    /// Sums of weighted values `[group, queries, head_dim]`.
    y: &'a mut [f32],
    /// Largest score of each query so far, `[group, queries]`.
    max: &'a mut [f32],
    /// Sum of its weights so far, `[group, queries]`.
    sum: &'a mut [f32],
}

impl<'a> Task<'a> {
    fn new(
        table: &'static OpTable,
        inputs: &'a Inputs<'a>,
        b: usize,
        kv_head: usize,
        queries: Range<usize>,
    ) -> Self {
        let blocks = Blocks::new(queries.len(), table.panel_rows);
        Self { table, inputs, b, head: KeyValueHead::new(inputs, b, kv_head), queries, blocks }
    }

    fn run(&self, output: &Output<'_>) {
        let (d, width) = (self.inputs.head_dim, self.table.panel_width);
        let rows = self.inputs.group * self.queries.len();
        let tile = self.table.panel_rows * KEY_BLOCK;
        let lens =
            [rows * d, KEY_BLOCK * d, KEY_BLOCK * d.next_multiple_of(width), tile, rows * d, rows, rows];
        // Each buffer starts at a cache line.
        let lens = lens.map(|len: usize| len.next_multiple_of(16));
        with_scratch(lens.iter().sum(), |mut rest| {
            let [q, keys, values, scores, y, max, sum] = lens.map(|len| {
                let (buffer, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                buffer
            });
            let mut buffers = Buffers { q, keys, values, scores, y, max, sum };
            buffers.y.fill(0.0);
            buffers.sum.fill(0.0);
            buffers.max.fill(f32::NEG_INFINITY);
            self.interleave_queries(buffers.q);
            let first = self.head.visible(self.queries.start).start / KEY_BLOCK * KEY_BLOCK;
            let end = self.head.visible(self.queries.end - 1).end;
            for first_key in (first..end).step_by(KEY_BLOCK) {
                let keys = first_key..end.min(first_key + KEY_BLOCK);
                self.pack_keys(&keys, buffers.keys);
                self.pack_values(&keys, buffers.values);
                for member in 0..self.inputs.group {
                    for block in 0..self.blocks.count() {
                        self.attend(&keys, member, self.blocks.rows(block), &mut buffers);
                    }
                }
            }
            self.finish(&buffers, output);
        });
    }

    /// Row of `q` and `y` of query `i` of the task, and head of member `member`.
    fn row_and_head(&self, member: usize, i: usize) -> (usize, usize) {
        (self.b * self.inputs.tokens + self.queries.start + i, self.head.first_head + member)
    }

    fn interleave_queries(&self, packed: &mut [f32]) {
        let (q, d) = (&self.inputs.q, self.inputs.head_dim);
        for member in 0..self.inputs.group {
            for rows in (0..self.blocks.count()).map(|block| self.blocks.rows(block)) {
                let (row, head) = self.row_and_head(member, rows.start);
                let first = (member * self.queries.len() + rows.start) * d;
                let interleave = Interleave {
                    x: &q.data[row * q.stride + head * d..],
                    stride: q.stride,
                    rows: rows.len(),
                    width: rows.len(),
                    packed: &mut packed[first..][..rows.len() * d],
                };
                // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
                unsafe { (self.table.interleave)(interleave) };
            }
        }
    }

    fn pack_keys(&self, keys: &Range<usize>, packed: &mut [f32]) {
        let (d, width) = (self.inputs.head_dim, self.table.panel_width);
        for (first, packed) in keys.clone().step_by(width).zip(packed.chunks_exact_mut(width * d)) {
            let TokenRows { data, stride } = tokens_from(self.head.keys, first);
            let interleave = Interleave { x: data, stride, rows: width.min(keys.end - first), width, packed };
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
            unsafe { (self.table.interleave)(interleave) };
        }
    }

    fn pack_values(&self, keys: &Range<usize>, packed: &mut [f32]) {
        let (d, width) = (self.inputs.head_dim, self.table.panel_width);
        for (panel, packed) in packed.chunks_exact_mut(KEY_BLOCK * width).enumerate() {
            let columns = panel * width..d.min((panel + 1) * width);
            for (j, packed) in keys.clone().zip(packed.chunks_exact_mut(width)) {
                let row = &self.head.values.data[j * self.head.values.stride..][columns.clone()];
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

    /// One block of queries of one head against one block of keys.
    fn attend(&self, keys: &Range<usize>, member: usize, rows: Range<usize>, buffers: &mut Buffers<'_>) {
        let (d, width, table) = (self.inputs.head_dim, self.table.panel_width, self.table);
        let first_query = self.queries.start + rows.start;
        let start = self.head.visible(first_query).start;
        let end = keys.end.min(self.head.visible(first_query + rows.len() - 1).end);
        if start.max(keys.start) >= end {
            return;
        }
        let count = end - keys.start;
        let first_row = member * self.queries.len() + rows.start;
        let q = &buffers.q[first_row * d..][..rows.len() * d];
        let scores = &mut buffers.scores[..rows.len() * KEY_BLOCK];
        for (panel, packed) in buffers.keys.chunks_exact(d * width).take(count.div_ceil(width)).enumerate() {
            let product = PanelProduct {
                x: q.as_ptr(),
                x_order: RowOrder::Interleaved,
                rows: rows.len(),
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
            // `rows` rows of `d`, `packed` a panel of `d` terms, and rows of scores are `KEY_BLOCK` long, a multiple
            // of the width.
            unsafe { (table.multiply_panel)(&product) };
        }
        for (i, scores) in scores.chunks_exact_mut(KEY_BLOCK).enumerate() {
            let visible = self.head.visible(first_query + i);
            let visible = visible.start.clamp(keys.start, end)..visible.end.clamp(keys.start, end);
            let row = first_row + i;
            let args = Scores {
                scores: &mut scores[..count],
                scale: self.inputs.scale,
                slope: self.inputs.slope(self.head.first_head + member),
                first_key: keys.start,
                visible: visible.start - keys.start..visible.end - keys.start,
                mask: self.head.mask.map(|mask| &mask[keys.start..end]),
                max: buffers.max[row],
            };
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
            let (max, sum) = unsafe { (table.exponentials)(args) };
            if max > buffers.max[row] {
                // What was weighted against a smaller maximum shrinks; nothing to begin with.
                let factor = (buffers.max[row] - max).exp();
                buffers.y[row * d..][..d].iter_mut().for_each(|y| *y *= factor);
                buffers.sum[row] *= factor;
                buffers.max[row] = max;
            }
            buffers.sum[row] += sum;
        }
        let y = &mut buffers.y[first_row * d..][..rows.len() * d];
        for (panel, packed) in buffers.values.chunks_exact(KEY_BLOCK * width).enumerate() {
            let product = PanelProduct {
                x: scores.as_ptr(),
                x_order: RowOrder::Scores,
                rows: rows.len(),
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
            // SAFETY: a `CpuKernels` exists, so the processor has the instruction set. `scores` holds
            // `rows` rows of `count <= KEY_BLOCK`, `packed` a panel of `KEY_BLOCK` terms, and `y` `rows` rows of `d`, of
            // which these are `cols` columns.
            unsafe { (table.multiply_panel)(&product) };
        }
    }

    /// Divides by the sums; a query that has seen no key yields zeros.
    fn finish(&self, buffers: &Buffers<'_>, output: &Output<'_>) {
        let (d, heads) = (self.inputs.head_dim, self.inputs.heads);
        for member in 0..self.inputs.group {
            for i in 0..self.queries.len() {
                let (row, head) = self.row_and_head(member, i);
                let first = (row * heads + head) * d;
                // SAFETY: these queries of this head belong to this task alone.
                let y = unsafe { output.range(first..first + d) };
                let local = member * self.queries.len() + i;
                let sum = buffers.sum[local];
                let factor = if sum > 0.0 { 1.0 / sum } else { 0.0 };
                for (y, value) in y.iter_mut().zip(&buffers.y[local * d..][..d]) {
                    *y = value * factor;
                }
            }
        }
    }
}
