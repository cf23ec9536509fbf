//! `y = x w^T + bias`: checks, and the order in which panels and rows are visited.

use std::ptr;

use crate::args::MatMul;
use crate::cpu::op_table::PanelProduct;
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::Result;

const OP: &str = "matmul";

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: MatMul<'_>) -> Result<()> {
    let MatMul { x, w, bias, y } = args;
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
    if k == 0 {
        for y in y.data[..m * n].chunks_exact_mut(n) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
        }
        return Ok(());
    }
    let width = w.panel_width();
    let output = Output::new(&mut y.data[..m * n]);
    kernels.pool.run(n.div_ceil(width), &|panel| {
        let first = panel * width;
        let cols = width.min(n - first);
        let weights = &w.bytes()[panel * w.panel_size()..][..w.panel_size()];
        for r in (0..m).step_by(kernels.table.panel_rows) {
            let product = PanelProduct {
                x: x.data[r * x.stride..].as_ptr(),
                x_row_stride: x.stride,
                x_k_stride: 1,
                rows: kernels.table.panel_rows.min(m - r),
                w: weights.as_ptr(),
                format: w.format(),
                k,
                y: output.pointer().wrapping_add(r * n + first),
                y_stride: n,
                cols,
                bias: bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
                accumulate: false,
            };
            // SAFETY: `kernels` exists, so the processor has the instruction set. `x` holds `m` rows of `k`
            // elements, `weights` is one whole panel, `bias` has `n` elements, `y` holds `m * n` elements of
            // which only this task touches columns `first..first + cols` (all checked above).
            unsafe { (kernels.table.multiply_panel)(&product) };
        }
    });
    Ok(())
}
