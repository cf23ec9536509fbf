//! Embedding lookup in a packed table.

use super::for_row_ranges;
use crate::args::Embed;
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

const OP: &str = "embed";

/// A gathered element costs about this many elements read in order: each lies in a cache line of its own.
const GATHER_COST: usize = 8;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: Embed<'_>) -> Result<()> {
    let Embed { table, ids, y } = args;
    let k = table.k();
    check::rows_mut(OP, &y)?;
    check::equal(OP, "rows of y", ids.len(), y.rows)?;
    check::equal(OP, "columns of y", k, y.cols)?;
    for id in ids {
        check::index(OP, *id as usize, table.n())?;
    }
    let output = Output::new(&mut y.data[..ids.len() * k]);
    for_row_ranges(&kernels.pool, ids.len(), k * GATHER_COST, &|rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this task alone.
            let y = unsafe { output.range(r * k..(r + 1) * k) };
            // Cannot fail: the index and the length have been checked.
            let _ = table.decode_row(ids[r] as usize, y);
        }
    });
    Ok(())
}
