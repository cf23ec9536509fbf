//! LayerNorm and RMSNorm, alone or with the codes that products behind them multiply. The kernels are in `norm.cu`.

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceMatrix, DeviceRows, LinearScratch, check, float_code};
use crate::args::{InputRounding, NormKind};
use crate::error::{KernelError, Result};

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

/// For which product [`CudaKernels::norm_and_round`] leaves codes.
#[derive(Clone, Copy, Debug)]
pub struct NormRounding<'a> {
    /// How the product's input is rounded.
    pub rounding: InputRounding,
    /// A matrix that it is multiplied with.
    pub w: &'a DeviceMatrix,
    /// Where the product looks for codes.
    pub scratch: &'a LinearScratch,
    /// Whether somebody else reads the result, too; otherwise nothing is written there, and only its type matters.
    pub is_y_read: bool,
}

/// Times eight elements that a thread keeps in registers.
const KEPT: usize = 4;

/// Rows for each multiprocessor from which on norm and rounding in one launch are faster than in two. The code of both is
/// twice as long as that of the norm, and few rows do not make up for fetching it: on an H100, DistilBERT does 2.3 % more at 256 x
/// 128 tokens, 1.5 % less at 1 x 128, and GPT-2 reads prompts of 512 tokens 9 % slower.
const ROUNDED_ROWS: usize = 32;

const OP: &str = "norm";

impl CudaKernels {
    /// Normalises every row.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn norm(&self, args: &NormArgs<'_>) -> Result<()> {
        let NormArgs { x, y, .. } = *args;
        let launch = self.norm_launch("normalise", args)?.result(&y);
        // SAFETY: one block per row; shapes were checked.
        Ok(unsafe { launch.submit([x.rows, 1, 1], self.norm_threads(&x), 0, true) }?)
    }

    /// Normalises every row and rounds the result to where [`CudaKernels::linear`] looks for it when it is told so: bit by bit
    /// what [`CudaKernels::norm`] and then [`CudaKernels::round_rows`] leave, in one launch.
    ///
    /// # Errors
    /// [`KernelError::Shape`]; [`KernelError::NoKernel`] where the product does not [take codes](CudaKernels::takes_codes).
    pub fn norm_and_round(&self, args: &NormArgs<'_>, rounded: &NormRounding<'_>) -> Result<()> {
        let NormArgs { x, y, .. } = *args;
        let NormRounding { rounding, w, scratch, is_y_read } = *rounded;
        check::equal(OP, "columns of x", w.k, x.cols)?;
        if !self.takes_codes(w, x.rows, rounding) {
            return Err(KernelError::NoKernel { op: OP, format: w.format });
        }
        let launch = self.norm_launch("normalise_and_round", args)?;
        let launch = if is_y_read { launch.result(&y) } else { launch.null().int(float_code(y.format)) };
        let launch = scratch.codes_of(launch, [x.rows, x.cols], rounding, w.format)?;
        // SAFETY: one block per row; shapes and the room in the scratch were checked.
        Ok(unsafe { launch.submit([x.rows, 1, 1], self.norm_threads(&x), 0, true) }?)
    }

    /// Whether [`CudaKernels::norm_and_round`] is the faster way to a product of `m` rows.
    pub fn rounds_behind_norm(&self, w: &DeviceMatrix, m: usize, rounding: InputRounding) -> bool {
        m >= ROUNDED_ROWS * self.context().multiprocessors() && self.takes_codes(w, m, rounding)
    }

    /// Everything up to where the result goes.
    fn norm_launch(&self, kernel: &str, args: &NormArgs<'_>) -> Result<Launch<'_>> {
        let NormArgs { kind, x, weight, bias, eps, y } = *args;
        check::rows(OP, "x", &x)?;
        check::dense(OP, "y", &y)?;
        check::same(OP, "x", &x, &y)?;
        check::vector(OP, "weight", x.cols, Some(weight))?;
        check::vector(OP, "bias", x.cols, bias)?;
        // Rows that are not aligned are read element by element, from wherever they start.
        Ok(Launch::new(&self.stream, self.function("norm.cu", kernel)?)
            .rows(&x)
            .int(x.cols)
            .int(usize::from(kind == NormKind::Layer))
            .buffer(weight, 0)
            .optional(bias)
            .float(eps))
    }

    /// Threads for a row: with codes as many as without, so that sums are added in the same order.
    fn norm_threads(&self, x: &DeviceRows<'_>) -> usize {
        // Few rows are all threads have to do: the more of them share one, the sooner it is done.
        let kept = if x.rows <= self.context().multiprocessors() { 1 } else { KEPT };
        x.cols.div_ceil(8 * kept).next_multiple_of(32).clamp(32, 512)
    }
}
