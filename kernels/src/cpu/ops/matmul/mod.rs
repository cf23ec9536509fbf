//! `y = x w^T + bias`: checks, and the choice between sums of floats and of integers.

mod fixed;
mod float;
mod rounded;
mod split;

use crate::args::{InputRounding, MatMul, Rows};
use crate::cpu::ops::for_row_ranges;
use crate::cpu::output::Output;
use crate::cpu::packed::PackedMatrix;
use crate::cpu::quantize::round_to_e4m3;
use crate::cpu::scratch::with_scratch;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;
use crate::format::Codes;
use crate::reference::round_row;
pub(super) use split::Blocks;

const OP: &str = "matmul";

/// Terms whose integer sums cannot overflow: each is below `2^14`, and an instruction may add `2^14` per term on the
/// way.
const MAX_INTEGER_TERMS: usize = 1 << 16;

/// Rows up to which inputs of bf16 weights are never rounded: products of so few rows wait for the weights.
///
/// With more rows the instruction sets that have tiles of bf16 round them too. It is the one place where a row's result
/// depends on how many others there are.
const MAX_PRECISE_ROWS: usize = 4;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: MatMul<'_>) -> Result<()> {
    let MatMul { x, rounding, w, bias, y } = args;
    let (m, n, k) = (x.rows, w.n(), w.k());
    check::rows(OP, "x", &x)?;
    check::rows_mut(OP, &y)?;
    check::equal(OP, "columns of x", k, x.cols)?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", n, y.cols)?;
    check::equal(OP, "panel width of w", kernels.table.panel_width, w.panel_width())?;
    if let Some(bias) = bias {
        check::equal(OP, "bias", n, bias.len())?;
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let y = &mut y.data[..m * n];
    if k == 0 {
        for y in y.chunks_exact_mut(n) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
        }
        return Ok(());
    }
    let table = kernels.table;
    if rounding == InputRounding::None {
        match (&table.brain, w.codes()) {
            (Some(brain), Codes::Bf16) if m > MAX_PRECISE_ROWS => {
                rounded::multiply(kernels, &brain.product, x, rounding, w, bias, y);
            }
            _ => multiply(kernels, x, w, bias, y),
        }
    } else if matches!(w.codes(), Codes::Int8) && k <= MAX_INTEGER_TERMS {
        rounded::multiply(kernels, &table.integer, x, rounding, w, bias, y);
    } else {
        with_scratch(m * k, |rounded| {
            round(kernels, x, rounding, w, rounded);
            multiply(kernels, Rows { data: rounded, rows: m, cols: k, stride: k }, w, bias, y);
        });
    }
    Ok(())
}

/// The product, none of whose sizes is zero, of inputs as they are.
fn multiply(kernels: &CpuKernels, x: Rows<'_>, w: &PackedMatrix, bias: Option<&[f32]>, y: &mut [f32]) {
    match (kernels.table.fixed, w.grid()) {
        (Some(fixed), Some(grid)) => fixed::multiply(kernels, &fixed, grid, x, w, bias, y),
        _ => float::multiply(kernels, x, w, bias, y),
    }
}

/// Rounds the rows of `x`, which stay floats, into `rounded [m, k]`.
fn round(kernels: &CpuKernels, x: Rows<'_>, rounding: InputRounding, w: &PackedMatrix, rounded: &mut [f32]) {
    let (k, rounded) = (x.cols, Output::new(rounded));
    for_row_ranges(&kernels.pool, x.rows, k, &|rows| {
        for r in rows {
            let x = &x.data[r * x.stride..][..k];
            // SAFETY: each row belongs to one task.
            let rounded = unsafe { rounded.range(r * k..(r + 1) * k) };
            if matches!(w.codes(), Codes::E4m3 | Codes::E5m2) {
                round_to_e4m3(x, rounding, rounded);
            } else {
                rounded.copy_from_slice(x);
                round_row(rounded, rounding, w.format());
            }
        }
    });
}
