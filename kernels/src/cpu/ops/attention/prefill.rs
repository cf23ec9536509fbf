//! Many queries per key-value head: bound by arithmetic.
//!
//! A task takes a range of queries of all heads that share a key-value head and goes through the keys in blocks
//! (Dao et al. 2022). A block's keys and values are packed once, as panels like those of weights, and serve all the
//! queries of the task in two [`Products`]:
//! `scores [rows, keys] = q [rows, head_dim] keys^T` and `y [rows, head_dim] += weights [rows, keys] values`.
//! Blocks that no query of a row block sees are skipped.

use std::ops::Range;

use super::products::{
    BrainProducts, FloatProducts, KEY_BLOCK, LINE, Products, ROWS_AHEAD, ScoreRows, Sizes,
};
use super::{Inputs, KeyValueHead, floats, wide_len};
use crate::args::AttentionProducts;
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{FloatRows, OpTable, Scores};
use crate::cpu::ops::matmul::Blocks;
use crate::cpu::output::Output;
use crate::cpu::prefetch;
use crate::cpu::scratch::with_scratch;

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
    let (table, head_dim) = (kernels.table, inputs.head_dim);
    let products: &dyn Products = match (&table.brain, inputs.products) {
        (Some(brain), AttentionProducts::Bf16) => &BrainProducts { table, brain, head_dim },
        _ => &FloatProducts { table, head_dim },
    };
    let ranges = Blocks::new(tokens, queries);
    let output = Output::new(y);
    let task = |task: usize| {
        let (b, kv_head) = (task / kv_heads % batch, task % kv_heads);
        // The last queries come first: with a causal mask they have the most to do.
        let queries = ranges.rows(ranges.count() - 1 - task / kv_heads / batch);
        Task::new(table, products, inputs, b, kv_head, queries).run(&output);
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
    products: &'a dyn Products,
    inputs: &'a Inputs<'a>,
    b: usize,
    head: KeyValueHead<'a>,
    queries: Range<usize>,
    /// The queries in blocks that a product takes at once.
    blocks: Blocks,
}

/// The memory of a task; what is packed is laid out as the [`Products`] want it.
struct Buffers<'a> {
    /// Queries, block by block, `[group, queries]` in all.
    q: &'a mut [f32],
    /// A block's keys.
    keys: &'a mut [f32],
    /// A block's values.
    values: &'a mut [f32],
    /// Of the products.
    work: &'a mut [f32],
    /// A block's keys, then its values, `[KEY_BLOCK, head_dim]`, where they are stored in another format than `f32`.
    wide: &'a mut [f32],
    /// Scores, then weights, `[rows, KEY_BLOCK]`.
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
        products: &'a dyn Products,
        inputs: &'a Inputs<'a>,
        b: usize,
        kv_head: usize,
        queries: Range<usize>,
    ) -> Self {
        let blocks = Blocks::new(queries.len(), products.rows());
        Self { table, products, inputs, b, head: KeyValueHead::new(inputs, b, kv_head), queries, blocks }
    }

    fn run(&self, output: &Output<'_>) {
        let (d, sizes) = (self.inputs.head_dim, self.products.sizes());
        let rows = self.inputs.group * self.queries.len();
        let scores = self.products.rows() * KEY_BLOCK;
        let wide = [self.inputs.k, self.inputs.v].map(|heads| wide_len(&heads, KEY_BLOCK, d));
        let wide = wide[0].max(wide[1]);
        let Sizes { query, keys, values, work } = sizes;
        let lens = [rows * query, keys, values, work, wide, scores, rows * d, rows, rows];
        // Each buffer starts at a cache line.
        let lens = lens.map(|len: usize| len.next_multiple_of(16));
        with_scratch(lens.iter().sum(), |mut rest| {
            let [q, keys, values, work, wide, scores, y, max, sum] = lens.map(|len| {
                let (buffer, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                buffer
            });
            let mut buffers = Buffers { q, keys, values, work, wide, scores, y, max, sum };
            buffers.y.fill(0.0);
            buffers.sum.fill(0.0);
            buffers.max.fill(f32::NEG_INFINITY);
            self.pack_queries(buffers.q);
            let first = self.head.visible(self.queries.start).start / KEY_BLOCK * KEY_BLOCK;
            let end = self.head.visible(self.queries.end - 1).end;
            for first_key in (first..end).step_by(KEY_BLOCK) {
                let keys = first_key..end.min(first_key + KEY_BLOCK);
                let rows = floats(self.table, self.head.keys, keys.clone(), d, buffers.wide);
                self.products.pack_keys(rows, keys.len(), buffers.keys, buffers.work);
                let rows = floats(self.table, self.head.values, keys.clone(), d, buffers.wide);
                self.products.pack_values(rows, keys.len(), buffers.values);
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

    fn pack_queries(&self, packed: &mut [f32]) {
        let (q, d, size) = (&self.inputs.q, self.inputs.head_dim, self.products.sizes().query);
        for member in 0..self.inputs.group {
            for rows in (0..self.blocks.count()).map(|block| self.blocks.rows(block)) {
                let (row, head) = self.row_and_head(member, rows.start);
                let queries = FloatRows { data: &q.data[row * q.stride + head * d..], stride: q.stride };
                let first = (member * self.queries.len() + rows.start) * size;
                self.products.pack_queries(queries, rows.len(), &mut packed[first..][..rows.len() * size]);
            }
        }
    }

    /// One block of queries of one head against one block of keys.
    fn attend(&self, keys: &Range<usize>, member: usize, rows: Range<usize>, buffers: &mut Buffers<'_>) {
        let (d, size, table) = (self.inputs.head_dim, self.products.sizes().query, self.table);
        let first_query = self.queries.start + rows.start;
        let start = self.head.visible(first_query).start;
        let end = keys.end.min(self.head.visible(first_query + rows.len() - 1).end);
        if start.max(keys.start) >= end {
            return;
        }
        let count = end - keys.start;
        let first_row = member * self.queries.len() + rows.start;
        let q = &buffers.q[first_row * size..][..rows.len() * size];
        let scores = &mut buffers.scores[..rows.len() * KEY_BLOCK];
        self.products.score(q, buffers.keys, ScoreRows { scores, rows: rows.len(), count });
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
        let weights = ScoreRows { scores, rows: rows.len(), count };
        self.products.add_weighted(weights, buffers.values, y, buffers.work);
    }

    /// Divides by the sums; a query that has seen no key yields zeros.
    fn finish(&self, buffers: &Buffers<'_>, output: &Output<'_>) {
        let (d, heads) = (self.inputs.head_dim, self.inputs.heads);
        for member in 0..self.inputs.group {
            for i in 0..self.queries.len() {
                let (row, head) = self.row_and_head(member, i);
                let first = (row * heads + head) * d;
                // Rows of one head lie far from each other.
                for line in (0..d).step_by(LINE) {
                    prefetch::write(output.pointer().wrapping_add(first + ROWS_AHEAD * heads * d + line));
                }
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
