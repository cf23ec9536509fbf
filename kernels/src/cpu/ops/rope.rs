//! Rotary position embedding: checks, and rows shared out among threads.

use super::{for_row_ranges, row};
use crate::args::Rope;
use crate::cpu::op_table::RopeHead;
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::{KernelError, Result};

const OP: &str = "rope";

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: Rope<'_>) -> Result<()> {
    let Rope { x, heads, head_dim, cos, sin, rotary, positions, y } = args;
    let (m, n) = (x.rows, x.cols);
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "columns of x", check::product(heads, head_dim), n)?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", n, y.cols)?;
    check::equal(OP, "positions", m, positions.len())?;
    check::equal(OP, "sin", cos.len(), sin.len())?;
    if rotary > head_dim || rotary % 2 != 0 {
        let expected = head_dim.min(rotary) / 2 * 2;
        return Err(KernelError::Shape { op: OP, what: "rotary", expected, got: rotary });
    }
    let half = rotary / 2;
    if let Some(rows) = cos.len().checked_div(half) {
        for position in positions {
            check::index(OP, *position as usize, rows)?;
        }
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let output = Output::new(&mut y.data[..m * n]);
    for_row_ranges(&kernels.pool, m, n, &|rows| {
        for r in rows {
            let angles = positions[r] as usize * half..(positions[r] as usize + usize::from(half > 0)) * half;
            let (cos, sin) = if half > 0 { (&cos[angles.clone()], &sin[angles]) } else { (&[][..], &[][..]) };
            // SAFETY: row `r` belongs to this task alone.
            let y = unsafe { output.range(r * n..(r + 1) * n) };
            for (x, y) in row(&x, r).chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                // SAFETY: `kernels` exists, so the processor has the instruction set.
                unsafe { (kernels.table.rope)(RopeHead { x, cos, sin, y }) };
            }
        }
    });
    Ok(())
}
