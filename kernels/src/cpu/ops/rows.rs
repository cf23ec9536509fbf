//! Copies and means of rows.

use super::{for_row_ranges, row};
use crate::args::{CacheWrite, HeadsShape, MeanPool, SelectRows};
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

pub(in crate::cpu) fn cache_write(kernels: &CpuKernels, args: CacheWrite<'_>) -> Result<()> {
    const OP: &str = "cache_write";
    let CacheWrite { x, tokens, kv_start, cache } = args;
    let HeadsShape { batch, heads, capacity, head_dim } = cache.shape();
    check::rows(OP, "x", &x)?;
    check::equal(OP, "rows of x", check::product(batch, tokens), x.rows)?;
    check::equal(OP, "columns of x", check::product(heads, head_dim), x.cols)?;
    check::equal(OP, "kv_start", batch, kv_start.len())?;
    if x.rows == 0 || x.cols == 0 {
        return Ok(());
    }
    for start in kv_start {
        check::index(OP, (*start as usize).saturating_add(tokens - 1), capacity)?;
    }
    let writer = cache.writer(kernels.table.round_row);
    for_row_ranges(&kernels.pool, x.rows, x.cols, &|rows| {
        for r in rows {
            let (b, token) = (r / tokens, kv_start[r / tokens] as usize + r % tokens);
            for (h, x) in row(&x, r).chunks_exact(head_dim).enumerate() {
                // SAFETY: row `r` alone goes to this token of sequence `b`, and it belongs to this task alone; `kernels`
                // exists, so the processor has the instruction set.
                unsafe { writer.write((b * heads + h) * capacity + token, x) };
            }
        }
    });
    Ok(())
}

pub(in crate::cpu) fn mean_pool(kernels: &CpuKernels, args: MeanPool<'_>) -> Result<()> {
    const OP: &str = "mean_pool";
    let MeanPool { x, batch, tokens, mask, y } = args;
    let k = x.cols;
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "rows of x", check::product(batch, tokens), x.rows)?;
    check::equal(OP, "rows of y", batch, y.rows)?;
    check::equal(OP, "columns of y", k, y.cols)?;
    if let Some(mask) = &mask
        && batch > 0
    {
        check::mask(OP, mask, batch - 1, tokens)?;
    }
    if batch == 0 || k == 0 {
        return Ok(());
    }
    let output = Output::new(&mut y.data[..batch * k]);
    for_row_ranges(&kernels.pool, batch, k.saturating_mul(tokens), &|sequences| {
        for b in sequences {
            // SAFETY: row `b` belongs to this task alone.
            let y = unsafe { output.range(b * k..(b + 1) * k) };
            y.fill(0.0);
            let mut visible = 0;
            for t in 0..tokens {
                if mask.is_none_or(|mask| mask.visible[b * mask.stride + t] != 0) {
                    visible += 1;
                    for (y, x) in y.iter_mut().zip(row(&x, b * tokens + t)) {
                        *y += x;
                    }
                }
            }
            let count = visible.max(1) as f32;
            y.iter_mut().for_each(|y| *y /= count);
        }
    });
    Ok(())
}

pub(in crate::cpu) fn select_rows(args: SelectRows<'_>) -> Result<()> {
    const OP: &str = "select_rows";
    let SelectRows { x, indices, y } = args;
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "rows of y", indices.len(), y.rows)?;
    check::equal(OP, "columns of y", x.cols, y.cols)?;
    for index in indices {
        check::index(OP, *index as usize, x.rows)?;
    }
    if x.cols > 0 {
        for (index, y) in indices.iter().zip(y.data.chunks_exact_mut(x.cols)) {
            y.copy_from_slice(row(&x, *index as usize));
        }
    }
    Ok(())
}
