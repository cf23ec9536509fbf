//! `y = f(x w^T + bias) + residual`: checks, and the choice between sums of floats and of integers.

mod fixed;
mod float;
mod rounded;
mod split;

use crate::args::{ActivationKind, InputRounding, MatMul, ProductOutput, RoundedMatMul, Rows, RowsMut};
use crate::cpu::ops::elementwise::ACTIVATION_COST;
use crate::cpu::ops::{for_row_ranges, row};
use crate::cpu::output::Output;
use crate::cpu::packed::PackedMatrix;
use crate::cpu::quantize::round_to_e4m3;
use crate::cpu::rounded_input::{InputKind, Kind, RoundedInput, RoundedMemory};
use crate::cpu::scratch::with_scratch;
use crate::cpu::{CpuKernels, check};
use crate::error::{KernelError, Result};
use crate::format::Codes;
use crate::reference::round_row;
pub(super) use rounded::round_rows;
pub(super) use split::Blocks;

const OP: &str = "matmul";

/// Terms whose integer sums cannot overflow: each is below `2^14`, and an instruction may add `2^14` per term on the
/// way.
const MAX_INTEGER_TERMS: usize = 1 << 16;

/// Elements that are activated at once.
const ROW: usize = 1024;

/// Rows up to which inputs of bf16 weights are never rounded: products of so few rows wait for the weights.
///
/// With more rows the instruction sets that have tiles of bf16 round them too. It is the one place where a row's result
/// depends on how many others there are.
const MAX_PRECISE_ROWS: usize = 4;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: MatMul<'_>) -> Result<()> {
    let MatMul { x, rounding, w, bias, activation, residual, next: later, y } = args;
    let (m, n, k) = (x.rows, w.n(), w.k());
    check::rows(OP, "x", &x)?;
    check::equal(OP, "columns of x", k, x.cols)?;
    check_result(&y, m, n)?;
    check_weights(kernels, w, bias, &residual, m)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let y = &mut y.data[..m * n];
    let last = End { activation, residual };
    if k == 0 {
        for y in y.chunks_exact_mut(n) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
        }
        end(kernels, last, y);
        return Ok(());
    }
    let kind = input_kind(kernels, w, rounding, m).map(|kind| kind.0);
    if let Some((kind, rounded)) = kind.and_then(|kind| Some((kind, kind.kernels(kernels.table)?))) {
        let words = m * kind.words(k);
        // Two words for each row.
        with_scratch(words + 2 * m, |scratch| {
            let (codes, rows) = scratch.split_at_mut(words);
            let mut memory = RoundedMemory { codes, rows };
            rounded::round(kernels, kind, &x, &mut memory);
            let target = rounded::Target::Rows(y);
            rounded::multiply(kernels, rounded, memory.view(), w, bias, last, later.first().copied(), target);
        });
        if !rounded.ends {
            end(kernels, last, y);
        }
        return Ok(());
    }
    if rounding == InputRounding::None {
        multiply(kernels, x, w, bias, later, y);
    } else {
        with_scratch(m * k, |rounded| {
            round(kernels, x, rounding, w, rounded);
            multiply(kernels, Rows { data: rounded, rows: m, cols: k, stride: k }, w, bias, later, y);
        });
    }
    end(kernels, last, y);
    Ok(())
}

/// See [`CpuKernels::matmul_joined`].
pub(in crate::cpu) fn run_joined<const N: usize>(
    kernels: &CpuKernels,
    products: [MatMul<'_>; N],
) -> Result<()> {
    let Some(MatMul { x, rounding, w, next, .. }) = products.first() else { return Ok(()) };
    let (x, rounding, w, next) = (*x, *rounding, *w, *next);
    let joins = |other: &MatMul<'_>| {
        let is_plain = other.activation.is_none() && other.residual.is_none();
        let same_x = other.x.data.as_ptr() == x.data.as_ptr() && other.x.stride == x.stride;
        let same = other.rounding == rounding && same_x && other.x.rows == x.rows && other.x.cols == x.cols;
        is_plain && same && other.w.n() > 0 && can_join(kernels, [w, other.w], rounding, x.rows)
    };
    match (kernels.table.fixed, w.grid()) {
        (Some(fixed), Some(grid)) if x.rows > 0 && x.cols > 0 && products.iter().all(joins) => {
            for MatMul { x, w, bias, residual, y, .. } in &products {
                check::rows(OP, "x", x)?;
                check::equal(OP, "columns of x", w.k(), x.cols)?;
                check_result(y, x.rows, w.n())?;
                check_weights(kernels, w, *bias, residual, x.rows)?;
            }
            let parts = products.map(|MatMul { x, w, bias, y, .. }| {
                let y = Output::new(&mut y.data[..x.rows * w.n()]);
                fixed::Part { w, bias, y }
            });
            fixed::multiply(kernels, (&fixed, grid), x, &parts, next);
            Ok(())
        }
        _ => products.into_iter().try_for_each(|product| run(kernels, product)),
    }
}

/// See [`CpuKernels::can_join`].
pub(in crate::cpu) fn can_join(
    kernels: &CpuKernels,
    weights: [&PackedMatrix; 2],
    rounding: InputRounding,
    m: usize,
) -> bool {
    let is_of_few_rows = kernels.table.fixed.is_some_and(|fixed| m <= fixed.rows);
    let [a, b] = weights.map(|w| (w.format(), w.block_len(), w.k()));
    // Others round their inputs, or bring their weights themselves.
    is_of_few_rows && rounding == InputRounding::None && weights[0].grid().is_some() && a == b
}

/// See [`CpuKernels::input_kind`].
pub(in crate::cpu) fn input_kind(
    kernels: &CpuKernels,
    w: &PackedMatrix,
    rounding: InputRounding,
    m: usize,
) -> Option<InputKind> {
    match (&kernels.table.brain, w.codes(), rounding) {
        (_, _, _) if w.k() == 0 => None,
        (Some(_), Codes::Bf16, InputRounding::None) if m > MAX_PRECISE_ROWS => Some(InputKind(Kind::Brain)),
        (_, Codes::Int8, InputRounding::PerToken | InputRounding::Static { .. })
            if w.k() <= MAX_INTEGER_TERMS =>
        {
            Some(InputKind(Kind::Int8(rounding)))
        }
        _ => None,
    }
}

/// See [`CpuKernels::round`].
pub(in crate::cpu) fn round_input(
    kernels: &CpuKernels,
    x: Rows<'_>,
    kind: InputKind,
    out: &mut RoundedInput,
) -> Result<()> {
    check::rows("round", "x", &x)?;
    let mut memory = out.begin(kind, x.rows, x.cols)?;
    if x.rows > 0 && x.cols > 0 {
        rounded::round(kernels, kind.0, &x, &mut memory);
    }
    Ok(())
}

/// See [`CpuKernels::matmul_rounded`].
pub(in crate::cpu) fn run_rounded(kernels: &CpuKernels, args: RoundedMatMul<'_>) -> Result<()> {
    let RoundedMatMul { x, w, bias, activation, residual, next: later, y } = args;
    let other = || KernelError::InputKind { op: OP, format: w.format() };
    let (kind, m, k) = x.holds().ok_or_else(other)?;
    let n = w.n();
    check::equal(OP, "columns of x", w.k(), k)?;
    if let ProductOutput::Rows(y) = &y {
        check_result(y, m, n)?;
    }
    check_weights(kernels, w, bias, &residual, m)?;
    let rounded = kind.0.kernels(kernels.table).ok_or_else(other)?;
    if input_kind(kernels, w, kind.0.rounding(), m) != Some(kind) {
        return Err(other());
    }
    let last = End { activation, residual };
    let to_rows = |y: &mut [f32]| {
        if !y.is_empty() {
            let target = rounded::Target::Rows(y);
            rounded::multiply(kernels, rounded, x.view(), w, bias, last, later, target);
            if !rounded.ends {
                end(kernels, last, y);
            }
        }
    };
    match y {
        ProductOutput::Rows(y) => to_rows(&mut y.data[..m * n]),
        ProductOutput::Rounded(out, next) => {
            let mut memory = out.begin(next, m, n)?;
            match (kind.0, next.0) {
                _ if m == 0 || n == 0 => {}
                (Kind::Brain, Kind::Brain) if rounded.ends => {
                    let target = rounded::Target::Pieces(memory.codes);
                    rounded::multiply(kernels, rounded, x.view(), w, bias, last, later, target);
                }
                _ => with_scratch(m * n, |y| {
                    to_rows(y);
                    let y = Rows { data: y, rows: m, cols: n, stride: n };
                    rounded::round(kernels, next.0, &y, &mut memory);
                }),
            }
        }
    }
    Ok(())
}

fn check_result(y: &RowsMut<'_>, m: usize, n: usize) -> Result<()> {
    check::rows_mut(OP, y)?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", n, y.cols)
}

fn check_weights(
    kernels: &CpuKernels,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    residual: &Option<Rows<'_>>,
    m: usize,
) -> Result<()> {
    check::equal(OP, "panel width of w", kernels.table.panel_width, w.panel_width())?;
    if let Some(bias) = bias {
        check::equal(OP, "bias", w.n(), bias.len())?;
    }
    if let Some(residual) = residual {
        check::rows(OP, "residual", residual)?;
        check::same_shape(OP, ["rows of the residual", "columns of the residual"], residual, [m, w.n()])?;
    }
    Ok(())
}

/// The product, none of whose sizes is zero, of inputs as they are.
fn multiply(
    kernels: &CpuKernels,
    x: Rows<'_>,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    later: &[&PackedMatrix],
    y: &mut [f32],
) {
    match (kernels.table.fixed, w.grid()) {
        (Some(fixed), Some(grid)) => {
            let part = fixed::Part { w, bias, y: Output::new(y) };
            fixed::multiply(kernels, (&fixed, grid), x, &[part], later);
        }
        _ => float::multiply(kernels, x, w, bias, later, y),
    }
}

/// What a product ends with, behind the bias.
#[derive(Clone, Copy)]
struct End<'a> {
    activation: Option<ActivationKind>,
    residual: Option<Rows<'a>>,
}

/// Ends a product whose kernel has not done it.
fn end(kernels: &CpuKernels, last: End<'_>, y: &mut [f32]) {
    let End { activation, residual } = last;
    let (m, n) = match residual {
        Some(residual) => (residual.rows, residual.cols),
        // Without a residual rows do not matter.
        None => (y.len().div_ceil(ROW), ROW.min(y.len())),
    };
    if activation.is_none() && residual.is_none() {
        return;
    }
    let (len, output) = (y.len(), Output::new(y));
    for_row_ranges(&kernels.pool, m, n * ACTIVATION_COST, &|rows| {
        with_scratch(n, |before| {
            for r in rows {
                // SAFETY: each row belongs to one task.
                let y = unsafe { output.range(r * n..len.min((r + 1) * n)) };
                let before = &mut before[..y.len()];
                if let Some(kind) = activation {
                    before.copy_from_slice(y);
                    // SAFETY: `kernels` exists, so the processor has the instruction set.
                    unsafe { (kernels.table.activate)(kind, before, y) };
                }
                if let Some(residual) = &residual {
                    before.copy_from_slice(y);
                    // SAFETY: as above.
                    unsafe { (kernels.table.add)(before, row(residual, r), y) };
                }
            }
        });
    });
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
