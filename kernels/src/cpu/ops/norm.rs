//! LayerNorm and RMSNorm: checks, and rows shared out among threads.

use super::{for_row_ranges, row};
use crate::args::Norm;
use crate::cpu::op_table::NormRow;
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

const OP: &str = "norm";

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: Norm<'_>) -> Result<()> {
    let Norm { kind, x, weight, bias, eps, y } = args;
    let (m, k) = (x.rows, x.cols);
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", k, y.cols)?;
    check::equal(OP, "weight", k, weight.len())?;
    if let Some(bias) = bias {
        check::equal(OP, "bias", k, bias.len())?;
    }
    if m == 0 || k == 0 {
        return Ok(());
    }
    let output = Output::new(&mut y.data[..m * k]);
    for_row_ranges(&kernels.pool, m, k, &|rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this task alone.
            let y = unsafe { output.range(r * k..(r + 1) * k) };
            // SAFETY: `kernels` exists, so the processor has the instruction set.
            unsafe { (kernels.table.norm)(NormRow { kind, x: row(&x, r), weight, bias, eps, y }) };
        }
    });
    Ok(())
}
