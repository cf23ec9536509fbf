//! Operations on elements: checks, and rows shared out among threads.

use super::{for_row_ranges, row};
use crate::args::{Activate, Add, Gate, RowsMut};
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

/// An element of an activation costs about this many cheap ones.
pub(super) const ACTIVATION_COST: usize = 4;

pub(in crate::cpu) fn activate(kernels: &CpuKernels, args: Activate<'_>) -> Result<()> {
    const OP: &str = "activate";
    let Activate { kind, x, y } = args;
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::same_shape(OP, ["rows of x", "columns of x"], &x, [y.rows, y.cols])?;
    for_rows(kernels, y, ACTIVATION_COST, &|r, y| {
        // SAFETY: `kernels` exists, so the processor has the instruction set.
        unsafe { (kernels.table.activate)(kind, row(&x, r), y) }
    });
    Ok(())
}

pub(in crate::cpu) fn gate(kernels: &CpuKernels, args: Gate<'_>) -> Result<()> {
    const OP: &str = "gate";
    let Gate { kind, gate, up, y } = args;
    check::rows(OP, "gate", &gate)?;
    check::rows(OP, "up", &up)?;
    check::rows_mut(OP, &y)?;
    check::same_shape(OP, ["rows of gate", "columns of gate"], &gate, [y.rows, y.cols])?;
    check::same_shape(OP, ["rows of up", "columns of up"], &up, [y.rows, y.cols])?;
    for_rows(kernels, y, ACTIVATION_COST, &|r, y| {
        // SAFETY: `kernels` exists, so the processor has the instruction set.
        unsafe { (kernels.table.gate)(kind, row(&gate, r), row(&up, r), y) }
    });
    Ok(())
}

pub(in crate::cpu) fn add(kernels: &CpuKernels, args: Add<'_>) -> Result<()> {
    const OP: &str = "add";
    let Add { a, b, y } = args;
    check::rows(OP, "a", &a)?;
    check::rows(OP, "b", &b)?;
    check::rows_mut(OP, &y)?;
    check::same_shape(OP, ["rows of a", "columns of a"], &a, [y.rows, y.cols])?;
    check::same_shape(OP, ["rows of b", "columns of b"], &b, [y.rows, y.cols])?;
    for_rows(kernels, y, 1, &|r, y| {
        // SAFETY: `kernels` exists, so the processor has the instruction set.
        unsafe { (kernels.table.add)(row(&a, r), row(&b, r), y) }
    });
    Ok(())
}

/// Calls `f(r, row r of y)` for every row; an element costs `cost`.
fn for_rows(kernels: &CpuKernels, y: RowsMut<'_>, cost: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let (m, n) = (y.rows, y.cols);
    if m == 0 || n == 0 {
        return;
    }
    let output = Output::new(&mut y.data[..m * n]);
    for_row_ranges(&kernels.pool, m, n.saturating_mul(cost), &|rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this task alone.
            f(r, unsafe { output.range(r * n..(r + 1) * n) });
        }
    });
}
