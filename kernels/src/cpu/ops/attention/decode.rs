//! A few queries per key-value head against a long past: bound by reading keys and values.
//!
//! The keys are split at fixed places, so that a few heads keep many threads busy; a split leaves for each query the
//! maximum of its scores, the sum of their exponentials and the sum of values weighted by them, and these are combined
//! in order.

use super::{Inputs, KeyValueHead, tokens_from};
use crate::cpu::CpuKernels;
use crate::cpu::op_table::Scores;
use crate::cpu::output::Output;
use crate::cpu::scratch::with_scratch;

/// Keys of a split: small enough that they stay in L2 while the queries of a group pass over them.
const SPLIT: usize = 512;
/// Bytes of keys and values below which a second thread does not pay: about 5 us of reading.
const BREAK_EVEN_BYTES: usize = 256 * 1024;

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
        let size = |b: usize| 2 * keys(b) * kv_heads * head_dim * size_of::<f32>();
        let tasks = batch * kv_heads * splits;
        if (0..batch).map(size).sum::<usize>() < BREAK_EVEN_BYTES {
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
    for (row, part) in part.chunks_exact_mut(d + 2).enumerate() {
        let (h, token) = (head.first_head + row / tokens, row % tokens);
        let visible = head.visible(token);
        let first = visible.start.max(split * SPLIT);
        let end = visible.end.min((split + 1) * SPLIT);
        part.fill(0.0);
        part[0] = f32::NEG_INFINITY;
        if first >= end {
            continue;
        }
        let q = &inputs.q.data[(b * tokens + token) * inputs.q.stride + h * d..][..d];
        with_scratch(end - first, |scores| {
            // SAFETY: `kernels` exists, so the processor has the instruction set.
            let (max, sum) = unsafe {
                (table.dots)(q, tokens_from(head.keys, first), scores);
                (table.exponentials)(Scores {
                    scores,
                    scale: inputs.scale,
                    slope: inputs.slope(h),
                    first_key: first,
                    visible: 0..end - first,
                    mask: head.mask.map(|mask| &mask[first..end]),
                    max: f32::NEG_INFINITY,
                })
            };
            (part[0], part[1]) = (max, sum);
            // SAFETY: as above.
            unsafe { (table.weighted_sum)(scores, tokens_from(head.values, first), &mut part[2..]) };
        });
    }
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
