//! Softmax: checks, and rows shared out among threads.

use super::{for_row_ranges, row};
use crate::args::{Rows, RowsMut};
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

const OP: &str = "softmax";

/// An exponential costs about this many cheap elements.
const EXPONENTIAL_COST: usize = 4;

pub(in crate::cpu) fn run(kernels: &CpuKernels, x: Rows<'_>, y: RowsMut<'_>) -> Result<()> {
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::same_shape(OP, ["rows of x", "columns of x"], &x, [y.rows, y.cols])?;
    let (m, n) = (y.rows, y.cols);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let output = Output::new(&mut y.data[..m * n]);
    for_row_ranges(&kernels.pool, m, n.saturating_mul(EXPONENTIAL_COST), &|rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this task alone.
            let y = unsafe { output.range(r * n..(r + 1) * n) };
            // SAFETY: `kernels` exists, so the processor has the instruction set.
            unsafe { (kernels.table.softmax)(row(&x, r), y) };
        }
    });
    Ok(())
}
