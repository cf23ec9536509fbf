//! LayerNorm and RMSNorm. The kernel is in `norm.cu`.

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceRows, check};
use crate::args::NormKind;
use crate::error::Result;

/// Normalises every row of `x [m, k]` into `y [m, k]`.
#[derive(Clone, Copy, Debug)]
pub struct NormArgs<'a> {
    /// Layer or RMS.
    pub kind: NormKind,
    /// Input.
    pub x: DeviceRows<'a>,
    /// Gain `[k]`.
    pub weight: &'a DeviceBuffer<f32>,
    /// Shift `[k]`.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Added to the variance.
    pub eps: f32,
    /// Result, dense.
    pub y: DeviceRows<'a>,
}

/// Times eight elements that a thread keeps in registers.
const KEPT: usize = 4;

impl CudaKernels {
    /// Normalises every row.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape).
    pub fn norm(&self, args: &NormArgs<'_>) -> Result<()> {
        let NormArgs { kind, x, weight, bias, eps, y } = *args;
        check::rows("norm", "x", &x)?;
        check::dense("norm", "y", &y)?;
        check::same("norm", "x", &x, &y)?;
        check::vector("norm", "weight", x.cols, Some(weight))?;
        check::vector("norm", "bias", x.cols, bias)?;
        let launch = Launch::new(&self.stream, self.function("norm.cu", "normalise")?)
            .rows(&x)
            .int(x.cols)
            .int(usize::from(kind == NormKind::Layer))
            .buffer(weight, 0)
            .optional(bias)
            .float(eps)
            .result(&y);
        // Rows that are not aligned are read element by element, from wherever they start.
        // Few rows are all threads have to do: the more of them share one, the sooner it is done.
        let kept = if x.rows <= self.context().multiprocessors() { 1 } else { KEPT };
        let threads = x.cols.div_ceil(8 * kept).next_multiple_of(32).clamp(32, 512);
        // SAFETY: one block per row; shapes were checked.
        Ok(unsafe { launch.submit([x.rows, 1, 1], threads, 0, true) }?)
    }
}
