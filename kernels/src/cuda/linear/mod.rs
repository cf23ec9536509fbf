//! Matrix products, and everything that can be done on the way.
//!
//! | kernel | for |
//! |---|---|
//! | `gemv.cu`, `gemv_codes.cu` ([`vector`]) | one row: float weights, and all others |
//! | `gemm_stream.cu` ([`stream`]) | few rows |
//! | `gemm_hopper.cu`, `gemm_mma.cu` ([`tensor`]) | many rows, on tensor cores |
//! | `gemm_simt.cu` | f32, and shapes that the others' loads do not fit |

mod operand;
mod stream;
mod tensor;
mod tile;
mod vector;

use super::driver::{Context, DeviceBuffer, Launch};
use super::{CudaKernels, DeviceMatrix, DeviceRows, activation_code, check, float_code};
use crate::args::{ActivationKind, InputRounding, NormKind};
use crate::error::{KernelError, Result};
use crate::format::Format;
use std::sync::Arc;

pub(super) use stream::StreamScratch;

/// `y [m, n] = f(norm(x [m, k]) w [n, k]^T + bias) + residual`, for up to three matrices and results.
#[derive(Clone, Copy, Debug)]
pub struct LinearArgs<'a> {
    /// Input.
    pub x: DeviceRows<'a>,
    /// Normalises `x` first; for one row.
    pub norm: Option<FusedNorm<'a>>,
    /// How `x` is rounded before it is multiplied with 8-bit weights.
    pub rounding: InputRounding,
    /// Whether [`CudaKernels::round_rows`] or [`CudaKernels::norm_and_round`] did that already.
    pub is_rounded: bool,
    /// The matrices, all of one format and with as many columns.
    pub parts: &'a [LinearPart<'a>],
    /// With two matrices of one shape: `y0 = f(w0 x) * (w1 x)`; nothing is written to `y1`.
    pub gate: Option<ActivationKind>,
    /// Applied to the sums.
    pub activation: Option<ActivationKind>,
    /// Added last; for a single matrix.
    pub residual: Option<DeviceRows<'a>>,
    /// Room for what has to be converted first.
    pub scratch: &'a LinearScratch,
}

/// One of several products with the same `x`.
#[derive(Clone, Copy, Debug)]
pub struct LinearPart<'a> {
    /// Weights `[n, k]`.
    pub w: &'a DeviceMatrix,
    /// Bias `[n]`.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Result, dense.
    pub y: DeviceRows<'a>,
}

/// A norm in front of a product.
#[derive(Clone, Copy, Debug)]
pub struct FusedNorm<'a> {
    /// Layer or RMS.
    pub kind: NormKind,
    /// Gain `[k]`.
    pub weight: &'a DeviceBuffer<f32>,
    /// Shift `[k]`.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Added to the variance.
    pub eps: f32,
}

/// Bytes that products need besides their operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScratchSize {
    /// Rows of `x`, rounded or moved to where they can be read fast.
    pub rows: usize,
    /// Rows of `x`, counted.
    pub scales: usize,
    /// Weights, widened.
    pub weights: usize,
}

impl ScratchSize {
    /// Enough for either.
    pub fn max(self, other: ScratchSize) -> ScratchSize {
        ScratchSize {
            rows: self.rows.max(other.rows),
            scales: self.scales.max(other.scales),
            weights: self.weights.max(other.weights),
        }
    }
}

/// Memory for products; one launch at a time.
#[derive(Debug)]
pub struct LinearScratch {
    rows: DeviceBuffer<u8>,
    scales: DeviceBuffer<f32>,
    weights: DeviceBuffer<u8>,
}

impl LinearScratch {
    /// Memory of this size.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`](super::driver::CudaError::OutOfMemory).
    pub fn new(context: &Arc<Context>, size: ScratchSize) -> Result<Self> {
        Ok(Self {
            rows: DeviceBuffer::zeros(context, size.rows)?,
            scales: DeviceBuffer::zeros(context, size.scales)?,
            weights: DeviceBuffer::zeros(context, size.weights)?,
        })
    }
}

/// Which kernel multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Vector,
    Stream,
    Tensor,
    Simt,
}

const OP: &str = "linear";

impl CudaKernels {
    /// `y = f(norm(x) w^T + bias) + residual`, with the kernel that suits the shape.
    ///
    /// # Cost
    /// `2 m n k` flops; reads the weights once.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn linear(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, norm, parts, gate, residual, .. } = *args;
        check::rows(OP, "x", &x)?;
        let first = match parts {
            [first, ..] if parts.len() <= 3 => first,
            _ => return Err(KernelError::Shape { op: OP, what: "matrices", expected: 1, got: parts.len() }),
        };
        for part in parts {
            check::equal(OP, "columns of x", part.w.k, x.cols)?;
            check::equal(OP, "formats", 0, usize::from(part.w.format != first.w.format))?;
            check::vector(OP, "bias", part.w.n, part.bias)?;
            if gate.is_none() || std::ptr::eq(part, first) {
                check::dense(OP, "y", &part.y)?;
                check::equal(OP, "columns of y", part.w.n, part.y.cols)?;
                check::equal(OP, "rows of y", x.rows, part.y.rows)?;
                check::equal(OP, "types of y", 0, usize::from(part.y.format != first.y.format))?;
            }
        }
        if gate.is_some() {
            check::equal(OP, "matrices of a gate", 2, parts.len())?;
            check::equal(OP, "rows of the second matrix", first.w.n, parts[1].w.n)?;
        }
        if let Some(norm) = &norm {
            check::equal(OP, "rows behind a norm", 1, x.rows)?;
            check::vector(OP, "gain", x.cols, Some(norm.weight))?;
            check::vector(OP, "shift", x.cols, norm.bias)?;
        }
        if let Some(residual) = &residual {
            check::equal(OP, "matrices with a residual", 1, parts.len())?;
            check::rows(OP, "residual", residual)?;
            check::same(OP, "residual", residual, &first.y)?;
        }
        let is_joined = parts.len() > 1 || norm.is_some() || gate.is_some();
        if is_joined && !self.can_join(first.w, x.rows, norm.is_some()) {
            return Err(KernelError::Shape {
                op: OP,
                what: "matrices at once",
                expected: 1,
                got: parts.len(),
            });
        }
        match self.route(first.w, x.rows, args.rounding) {
            Route::Vector => self.linear_vector(args),
            Route::Stream => self.linear_stream(args),
            Route::Tensor => self.linear_tensor(args),
            Route::Simt => self.linear_simt(args),
        }
    }

    /// Whether [`CudaKernels::linear`] takes several such matrices or a gate at once, and a norm in front, for `m` rows.
    pub fn can_join(&self, w: &DeviceMatrix, m: usize, has_norm: bool) -> bool {
        // However the input is rounded: both ways for 8-bit weights of several rows join on Hopper, or none does.
        match self.route(w, m, InputRounding::None) {
            Route::Vector => m == 1,
            Route::Stream => !has_norm,
            Route::Tensor => !has_norm && self.is_hopper(),
            Route::Simt => false,
        }
    }

    fn route(&self, w: &DeviceMatrix, m: usize, rounding: InputRounding) -> Route {
        // Hopper's copy engine keeps more in flight than a stream of loads, if it can have the operands as they are.
        let is_copied =
            m > 1 && (self.is_hopper() && w.format.is_float() || self.multiplies_codes(w.format, rounding));
        if m == 1 && self.can_vector(w) {
            Route::Vector
        } else if is_copied && self.can_tensor(w) {
            Route::Tensor
        } else if self.can_stream(w, m) {
            Route::Stream
        } else if self.can_tensor(w) {
            Route::Tensor
        } else {
            Route::Simt
        }
    }

    /// Rounds `x` to where [`CudaKernels::linear`] looks for it when it is told so, as the codes that tensor cores multiply;
    /// false where it does not multiply codes.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn round_rows(
        &self,
        x: &DeviceRows<'_>,
        rounding: InputRounding,
        w: &DeviceMatrix,
        scratch: &LinearScratch,
    ) -> Result<bool> {
        let takes_codes = self.takes_codes(w, x.rows, rounding);
        if takes_codes {
            check::rows(OP, "x", x)?;
            self.rounded(x, rounding, w.format, operand::RoundedTo::Codes, scratch)?;
        }
        Ok(takes_codes)
    }

    /// Whether [`CudaKernels::linear`] multiplies `m` rows with such a matrix as codes of 8 bits, which another kernel may have
    /// left in its scratch before.
    pub fn takes_codes(&self, w: &DeviceMatrix, m: usize, rounding: InputRounding) -> bool {
        self.multiplies_codes(w.format, rounding) && self.route(w, m, rounding) == Route::Tensor
    }

    /// Whether codes are multiplied as they are.
    fn multiplies_codes(&self, weights: Format, rounding: InputRounding) -> bool {
        self.is_hopper()
            && rounding != InputRounding::None
            && matches!(weights, Format::Int8 | Format::Fp8E4m3)
    }

    /// What [`CudaKernels::linear`] needs to multiply `m` rows of `x_format` with one matrix.
    pub fn scratch_size(
        &self,
        w: &DeviceMatrix,
        m: usize,
        x_format: Format,
        rounding: InputRounding,
    ) -> ScratchSize {
        let route = self.route(w, m, rounding);
        let pitch = w.k.next_multiple_of(16);
        let is_rounded = rounding != InputRounding::None;
        let in_place = x_format == tensor::operand_format(w) && w.k.is_multiple_of(8) && !is_rounded;
        let needs_rows =
            matches!(route, Route::Stream | Route::Tensor) && (!in_place || w.format == Format::F32);
        let widens = route == Route::Tensor && !w.format.is_float();
        ScratchSize {
            // Operands that are not dense are moved, too: room for them always.
            rows: if needs_rows || m > 1 { m * pitch * 2 } else { 0 },
            scales: if is_rounded { m } else { 0 },
            // Two matrices of a gate are widened side by side.
            weights: if widens { 2 * w.n * pitch * 2 } else { 0 },
        }
    }

    fn is_hopper(&self) -> bool {
        self.context().compute_capability() == (9, 0)
    }

    fn linear_simt(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, parts, activation, residual, .. } = *args;
        let part = &parts[0];
        let name = match part.w.format {
            Format::F32 => "gemm_simt_f32",
            Format::F16 => "gemm_simt_f16",
            Format::Bf16 => "gemm_simt_bf16",
            format => return Err(KernelError::NoKernel { op: OP, format }),
        };
        check::at_most(OP, "rows", 65535 * 64, x.rows)?;
        let launch = Launch::new(&self.stream, self.function("gemm_simt.cu", name)?)
            .rows(&x)
            .int(x.rows)
            .int(part.w.k)
            .buffer(&part.w.data, 0)
            .int(part.w.n)
            .optional(part.bias)
            .int(activation_code(activation));
        let launch = launch.residual(residual.as_ref()).result(&part.y);
        let grid = [part.w.n.div_ceil(64), x.rows.div_ceil(64), 1];
        // SAFETY: blocks cover `y`, the kernel neither reads nor writes beyond `m`, `n` and `k`; `linear` checked the
        // shapes.
        Ok(unsafe { launch.submit(grid, 256, 0, true) }?)
    }
}

impl Launch<'_> {
    /// A matrix that is read: pointer, type, stride.
    pub(super) fn rows(self, x: &DeviceRows<'_>) -> Self {
        self.memory(x.data, x.offset * x.element_bytes()).int(float_code(x.format)).int(x.stride)
    }

    /// A matrix that may be added: pointer, type, stride.
    fn residual(self, x: Option<&DeviceRows<'_>>) -> Self {
        match x {
            Some(x) => self.rows(x),
            None => self.null().int(0).int(0),
        }
    }

    /// A dense matrix that is written: pointer, type.
    pub(super) fn result(self, y: &DeviceRows<'_>) -> Self {
        self.memory(y.data, y.offset * y.element_bytes()).int(float_code(y.format))
    }
}
