//! A few queries per key-value head against a long past: bound by reading keys and values.
//!
//! The keys are split at fixed places, so that a few heads keep many threads busy; a split leaves for each query the
//! maximum of its scores, the sum of their exponentials and the sum of values weighted by them, and these are combined
//! in order.

use std::ops::Range;

use super::{Inputs, KeyValueHead, floats, wide_len};
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{OpTable, Scores, TokenRows};
use crate::cpu::output::Output;
use crate::cpu::scratch::with_scratch;

/// Keys of a split: small enough that they stay in L2 while the queries of a group pass over them.
const SPLIT: usize = 512;
/// Elements of the keys, or of the values, that several queries pass over in turn: 16 KiB, a third of L1.
const STEP_ELEMENTS: usize = 4096;
/// Queries of a group from which on it pays to widen keys and values once, not for each of them.
const WIDENING_QUERIES: usize = 3;
/// Elements of keys and values below which a second thread does not pay: about 5 us of reading.
const BREAK_EVEN_ELEMENTS: usize = 64 * 1024;

pub(super) fn run(kernels: &CpuKernels, inputs: &Inputs<'_>, y: &mut [f32]) {
    let Inputs { batch, tokens, heads, kv_heads, group, head_dim, .. } = *inputs;
    let rows = tokens * group;
    let keys = |b: usize| inputs.keys(b);
    let splits = (0..batch).map(|b| keys(b).div_ceil(SPLIT)).max().unwrap_or(0);
    // A row is its maximum, its sum and `head_dim` weighted values.
    let row_len = head_dim + 2;
    let part_len = rows * row_len;
    with_scratch(batch * kv_heads * splits * part_len, |parts| {
        let output = Output::new(parts);
        let task = |task: usize| {
            let (b, kv_head, split) = (task / splits / kv_heads, task / splits % kv_heads, task % splits);
            if split * SPLIT < keys(b) {
                // SAFETY: each task has a part of its own.
                let part = unsafe { output.range(task * part_len..(task + 1) * part_len) };
                attend(kernels, inputs, (b, kv_head, split), part);
            }
        };
        let size = |b: usize| 2 * keys(b) * kv_heads * head_dim;
        let tasks = batch * kv_heads * splits;
        if (0..batch).map(size).sum::<usize>() < BREAK_EVEN_ELEMENTS {
            (0..tasks).for_each(task);
        } else {
            kernels.pool.run(tasks, &task);
        }

        for (i, y) in y.chunks_exact_mut(head_dim).enumerate() {
            let (b, token, head) = (i / heads / tokens, i / heads % tokens, i % heads);
            let (kv_head, member) = (head / group, head % group);
            let first = (b * kv_heads + kv_head) * splits * part_len + (member * tokens + token) * row_len;
            let rows =
                (0..keys(b).div_ceil(SPLIT)).map(|split| &parts[first + split * part_len..][..row_len]);
            combine(rows, y);
        }
    });
}

/// The queries of one key-value head against one split of its keys.
fn attend(
    kernels: &CpuKernels,
    inputs: &Inputs<'_>,
    (b, kv_head, split): (usize, usize, usize),
    part: &mut [f32],
) {
    let (d, tokens, table) = (inputs.head_dim, inputs.tokens, kernels.table);
    let head = KeyValueHead::new(inputs, b, kv_head);
    let rows = part.len() / (d + 2);
    // What query `row` sees of this split.
    let visible = |row: usize| {
        let visible = head.visible(row % tokens);
        let first = visible.start.max(split * SPLIT);
        first..visible.end.min((split + 1) * SPLIT).max(first)
    };
    // Several queries go through the keys in steps that stay in L1 meanwhile.
    let step = if rows == 1 { SPLIT } else { (STEP_ELEMENTS / d).clamp(16, SPLIT) };
    // Keys that any query sees.
    let seen = visible(0).start..visible(tokens - 1).end;
    let steps = (split * SPLIT..head.count.min((split + 1) * SPLIT)).step_by(step);
    let steps = steps.map(|first| overlap(seen.clone(), first..first + step)).filter(|keys| !keys.is_empty());
    let widens = rows >= WIDENING_QUERIES;
    let wide_len = |heads| if widens { wide_len(&heads, step, d) } else { 0 };
    let wide_len = wide_len(inputs.k).max(wide_len(inputs.v));
    with_scratch(rows * SPLIT + wide_len, |scratch| {
        let (scores, wide) = scratch.split_at_mut(rows * SPLIT);
        for step in steps.clone() {
            let rows_of_step = rows_from(table, head.keys, step.clone(), d, widens, wide);
            for (row, scores) in scores.chunks_exact_mut(SPLIT).enumerate() {
                let keys = overlap(visible(row), step.clone());
                if !keys.is_empty() {
                    let (h, token) = (head.first_head + row / tokens, row % tokens);
                    let q = &inputs.q.data[(b * tokens + token) * inputs.q.stride + h * d..][..d];
                    let scores = &mut scores[keys.start - split * SPLIT..keys.end - split * SPLIT];
                    let rows = rows_of_step.skip(keys.start - step.start);
                    // SAFETY: `kernels` exists, so the processor has the instruction set.
                    unsafe { (table.dots)(q, rows, row == 0, scores) };
                    rows.scale(scores);
                }
            }
        }
        for ((row, scores), part) in
            scores.chunks_exact_mut(SPLIT).enumerate().zip(part.chunks_exact_mut(d + 2))
        {
            let keys = visible(row);
            part.fill(0.0);
            part[0] = f32::NEG_INFINITY;
            if !keys.is_empty() {
                let args = Scores {
                    scores: &mut scores[keys.start - split * SPLIT..keys.end - split * SPLIT],
                    scale: inputs.scale,
                    slope: inputs.slope(head.first_head + row / tokens),
                    first_key: keys.start,
                    visible: 0..keys.len(),
                    mask: head.mask.map(|mask| &mask[keys]),
                    max: f32::NEG_INFINITY,
                };
                // SAFETY: `kernels` exists, so the processor has the instruction set.
                (part[0], part[1]) = unsafe { (table.exponentials)(args) };
            }
        }
        for step in steps {
            let rows_of_step = rows_from(table, head.values, step.clone(), d, widens, wide);
            for ((row, weights), part) in
                scores.chunks_exact_mut(SPLIT).enumerate().zip(part.chunks_exact_mut(d + 2))
            {
                let keys = overlap(visible(row), step.clone());
                if !keys.is_empty() {
                    let weights = &mut weights[keys.start - split * SPLIT..keys.end - split * SPLIT];
                    let rows = rows_of_step.skip(keys.start - step.start);
                    rows.scale(weights);
                    // SAFETY: `kernels` exists, so the processor has the instruction set.
                    unsafe { (table.weighted_sum)(weights, rows, row == 0, &mut part[2..]) };
                }
            }
        }
    });
}

/// Some rows of `d` elements as they lie in memory or, if that pays, in `f32`.
fn rows_from<'a>(
    table: &OpTable,
    rows: TokenRows<'a>,
    range: Range<usize>,
    d: usize,
    widens: bool,
    wide: &'a mut [f32],
) -> TokenRows<'a> {
    if widens { floats(table, rows, range, d, wide).into() } else { rows.skip(range.start) }
}

/// What two ranges have in common.
fn overlap(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// Puts the splits of one query together; zeros when it has seen no key.
fn combine<'a>(rows: impl Iterator<Item = &'a [f32]> + Clone, y: &mut [f32]) {
    y.fill(0.0);
    let max = rows.clone().map(|row| row[0]).fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return;
    }
    let sum: f32 = rows.clone().map(|row| row[1] * (row[0] - max).exp()).sum();
    for row in rows {
        let factor = (row[0] - max).exp() / sum;
        for (y, value) in y.iter_mut().zip(&row[2..]) {
            *y += factor * value;
        }
    }
}
