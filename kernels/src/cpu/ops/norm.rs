//! LayerNorm and RMSNorm: checks, and rows shared out among threads.

use super::matmul::round_rows;
use super::{for_row_ranges, row};
use crate::args::Norm;
use crate::cpu::op_table::NormRow;
use crate::cpu::output::Output;
use crate::cpu::rounded_input::{InputKind, RoundedInput};
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

const OP: &str = "norm";
/// What an element costs that is normalised and rounded, beside one that is normalised.
const ROUNDED_COST: usize = 2;

pub(in crate::cpu) fn run(
    kernels: &CpuKernels,
    args: Norm<'_>,
    rounded: Option<(InputKind, &mut RoundedInput)>,
) -> Result<()> {
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
    let output = Output::new(&mut y.data[..m * k]);
    let normalise = |r: usize| {
        // SAFETY: each row is asked for once.
        let y = unsafe { output.range(r * k..(r + 1) * k) };
        // SAFETY: `kernels` exists, so the processor has the instruction set.
        unsafe { (kernels.table.norm)(NormRow { kind, x: row(&x, r), weight, bias, eps, y: &mut *y }) };
        &*y
    };
    let memory = match rounded {
        Some((kind, out)) => Some((kind.0, out.begin(kind, m, k)?)),
        None => None,
    };
    if m == 0 || k == 0 {
        return Ok(());
    }
    match memory {
        Some((kind, mut memory)) => {
            round_rows(kernels, kind, [m, k], &mut memory, ROUNDED_COST, &normalise);
        }
        None => for_row_ranges(&kernels.pool, m, k, &|rows| {
            rows.for_each(|r| {
                normalise(r);
            });
        }),
    }
    Ok(())
}
