//! Matrix products. The kernels are in `gemv.cu` (one row), `gemm_mma.cu` and `gemm_wgmma.cu` (tensor cores) and `gemm_simt.cu` (the rest).

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceMatrix, DeviceRows, activation_code, check};
use crate::args::{ActivationKind, NormKind};
use crate::error::{KernelError, Result};
use crate::format::Format;

/// `y [m, n] = f(x [m, k] w [n, k]^T + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct LinearArgs<'a> {
    /// Input.
    pub x: DeviceRows<'a>,
    /// Weights.
    pub w: &'a DeviceMatrix,
    /// Bias `[n]`.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Applied to the sums.
    pub activation: Option<ActivationKind>,
    /// Added last.
    pub residual: Option<DeviceRows<'a>>,
    /// Room for `x` in 16 bits, `m * k` elements; without it tensor cores are not used.
    pub scratch: Option<&'a DeviceBuffer<half::f16>>,
    /// Whether the scratch holds this very `x` already, left there by the launch before.
    pub is_rounded: bool,
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

/// One of several products with the same `x`.
#[derive(Clone, Copy, Debug)]
pub struct VectorPart<'a> {
    /// Weights `[n, k]`.
    pub w: &'a DeviceMatrix,
    /// Bias `[n]`.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Result `[n]`.
    pub y: &'a DeviceBuffer<f32>,
}

/// Products of one row with up to three matrices, and everything that can be done on the way.
#[derive(Clone, Copy, Debug)]
pub struct VectorProduct<'a> {
    /// Input `[1, k]`.
    pub x: DeviceRows<'a>,
    /// Normalises `x` first.
    pub norm: Option<FusedNorm<'a>>,
    /// The matrices, all of one format.
    pub parts: &'a [VectorPart<'a>],
    /// With two matrices of one shape: `y0 = f(w0 x) * (w1 x)`.
    pub gate: Option<ActivationKind>,
    /// Applied to the sums.
    pub activation: Option<ActivationKind>,
    /// Added last; for a single matrix.
    pub residual: Option<DeviceRows<'a>>,
}

impl CudaKernels {
    /// `y = f(x w^T + bias) + residual`, with the kernel that suits the shape.
    ///
    /// # Cost
    /// `2 m n k` flops; reads the weights once.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn linear(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, w, bias, activation, residual, scratch, y, .. } = *args;
        check::rows("linear", "x", &x)?;
        check::dense("linear", "y", &y)?;
        check::equal("linear", "columns of x", w.k, x.cols)?;
        check::equal("linear", "columns of y", w.n, y.cols)?;
        check::equal("linear", "rows of y", x.rows, y.rows)?;
        check::vector("linear", "bias", w.n, bias)?;
        if let Some(residual) = &residual {
            check::rows("linear", "residual", residual)?;
            check::same("linear", "residual", residual, &y)?;
        }
        if x.rows == 1 && y.offset == 0 && self.can_stream(w) {
            let parts = [VectorPart { w, bias, y: y.data }];
            let product = VectorProduct { x, norm: None, parts: &parts, gate: None, activation, residual };
            return self.vector_product(&product);
        }
        match scratch {
            Some(scratch)
                if self.has_tensor_cores_for(w.format)
                    && w.k.is_multiple_of(8)
                    && scratch.len() >= x.rows * x.cols =>
            {
                if !args.is_rounded {
                    self.round_rows(w.format, &x, scratch)?;
                }
                self.linear_tensor(args, scratch)
            }
            _ => self.linear_simt(args),
        }
    }

    /// Whether [`CudaKernels::vector_product`] takes this matrix: rows in whole 16-byte pieces, `x` in shared memory.
    pub fn can_stream(&self, w: &DeviceMatrix) -> bool {
        let row_bytes = w.format.spec().encoded_bytes(1, w.k);
        row_bytes.is_multiple_of(16) && self.fits("gemv", staged_bytes(w.k)).is_ok()
    }

    /// Products of one row.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn vector_product(&self, args: &VectorProduct<'_>) -> Result<()> {
        const OP: &str = "gemv";
        let VectorProduct { x, norm, parts, gate, activation, residual } = *args;
        check::rows(OP, "x", &x)?;
        check::equal(OP, "rows of x", 1, x.rows)?;
        let (first, k) = match parts {
            [first, ..] if parts.len() <= 3 => (first, first.w.k),
            _ => return Err(KernelError::Shape { op: OP, what: "matrices", expected: 1, got: parts.len() }),
        };
        for part in parts {
            check::equal(OP, "columns of w", x.cols, part.w.k)?;
            check::vector(OP, "bias", part.w.n, part.bias)?;
            check::at_least(OP, "length of y", part.w.n, part.y.len())?;
            check::equal(OP, "formats", 0, usize::from(part.w.format != first.w.format))?;
        }
        if gate.is_some() {
            check::equal(OP, "matrices of a gate", 2, parts.len())?;
            check::equal(OP, "rows of the second matrix", first.w.n, parts[1].w.n)?;
        }
        if let Some(norm) = &norm {
            check::vector(OP, "gain", k, Some(norm.weight))?;
            check::vector(OP, "shift", k, norm.bias)?;
        }
        if let Some(residual) = &residual {
            check::rows(OP, "residual", residual)?;
            check::equal(OP, "matrices with a residual", 1, parts.len())?;
            check::equal(OP, "columns of the residual", first.w.n, residual.cols)?;
        }
        let row_bytes = first.w.format.spec().encoded_bytes(1, k);
        check::equal(OP, "bytes of a row beyond whole pieces", 0, row_bytes % 16)?;
        let shared_bytes = staged_bytes(k);
        self.fits(OP, shared_bytes)?;
        let name = format!("gemv_{}", first.w.format);
        let norm_code = norm.map_or(0, |norm| if norm.kind == NormKind::Layer { 1 } else { 2 });
        let mut launch = Launch::new(&self.stream, self.function("gemv.cu", &name)?)
            .buffer(x.data, x.offset)
            .int(k)
            .int(norm_code)
            .optional(norm.map(|norm| norm.weight))
            .optional(norm.and_then(|norm| norm.bias))
            .float(norm.map_or(0.0, |norm| norm.eps));
        for index in 0..3 {
            let part = parts.get(index);
            launch = launch
                .optional(part.map(|part| &part.w.data))
                .optional(part.and_then(|part| part.bias))
                .optional(part.map(|part| part.y))
                .int(part.map_or(0, |part| part.w.n));
        }
        let activation = activation_code(gate.or(activation));
        launch = launch.int(usize::from(gate.is_some())).int(activation);
        launch = match &residual {
            Some(residual) => launch.buffer(residual.data, residual.offset),
            None => launch.optional::<f32>(None),
        };
        let rows = if gate.is_some() { first.w.n } else { parts.iter().map(|part| part.w.n).sum() };
        // Two blocks of 16 warps fill a multiprocessor; a warp takes a row at a time.
        let blocks = (2 * self.context().multiprocessors()).min(rows.div_ceil(16));
        // SAFETY: warps take existing rows in turns; shapes were checked and the shared memory holds `x`.
        Ok(unsafe { launch.submit([blocks, 1, 1], 512, shared_bytes, true) }?)
    }

    /// Whether [`CudaKernels::linear`] rounds `m` rows of `x` into its scratch before it multiplies them with `w`.
    pub fn rounds_input(&self, w: &DeviceMatrix, m: usize) -> bool {
        self.has_tensor_cores_for(w.format) && w.k.is_multiple_of(8) && (m > 1 || !self.can_stream(w))
    }

    fn linear_tensor(&self, args: &LinearArgs<'_>, x: &DeviceBuffer<half::f16>) -> Result<()> {
        let LinearArgs { w, bias, activation, residual, y, .. } = *args;
        let (m, n) = (y.rows, w.n);
        let multiprocessors = self.context().multiprocessors();
        // The largest tile that still gives every multiprocessor one; few rows are bound by the weights' way from
        // memory, for which many small tiles with many stages ask at once.
        let (tile_m, tile_n, threads, stages) = [(128, 128, 256, 3), (64, 64, 128, 3)]
            .into_iter()
            .find(|(tile_m, tile_n, ..)| {
                m.div_ceil(*tile_m) * n.div_ceil(*tile_n) >= multiprocessors && m > 32
            })
            .unwrap_or(if m > 16 { (32, 64, 128, 4) } else { (16, 32, 64, 8) });
        let is_hopper = self.context().compute_capability() == (9, 0) && tile_m == 128;
        let (file, name, shared_bytes) = if is_hopper {
            ("gemm_wgmma.cu", format!("gemm_wgmma_{}", w.format), 3 * 2 * 128 * 64 * 2)
        } else {
            let shared_bytes = stages * (tile_m + tile_n) * 32 * 2;
            ("gemm_mma.cu", format!("gemm_mma_{}_{tile_m}", w.format), shared_bytes)
        };
        self.fits("linear", shared_bytes)?;
        let launch = Launch::new(&self.stream, self.function(file, &name)?)
            .buffer(x, 0)
            .int(m)
            .int(w.k)
            .buffer(&w.data, 0)
            .int(n);
        let launch =
            epilogue(launch, bias, activation, residual).buffer(y.data, y.offset).optional::<half::f16>(None);
        let blocks = m.div_ceil(tile_m) * n.div_ceil(tile_n);
        // SAFETY: blocks cover `y`, the kernel neither reads nor writes beyond `m`, `n` and `k`; `linear` checked the
        // shapes, and the shared memory is what the kernel lays out.
        Ok(unsafe { launch.submit([blocks, 1, 1], threads, shared_bytes, true) }?)
    }

    fn linear_simt(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, w, bias, activation, residual, y, .. } = *args;
        let name = match w.format {
            Format::F32 => "gemm_simt_f32",
            Format::F16 => "gemm_simt_f16",
            Format::Bf16 => "gemm_simt_bf16",
            format => return Err(KernelError::NoKernel { op: "linear", format }),
        };
        check::at_most("linear", "rows", 65535 * 64, x.rows)?;
        let launch = Launch::new(&self.stream, self.function("gemm_simt.cu", name)?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(x.rows)
            .int(w.k)
            .buffer(&w.data, 0)
            .int(w.n);
        let launch = epilogue(launch, bias, activation, residual).buffer(y.data, y.offset);
        let grid = [w.n.div_ceil(64), x.rows.div_ceil(64), 1];
        // SAFETY: blocks cover `y`, the kernel neither reads nor writes beyond `m`, `n` and `k`; `linear` checked the
        // shapes.
        Ok(unsafe { launch.submit(grid, 256, 0, true) }?)
    }
}

/// The arguments that every matrix product has between its operands and its result.
fn epilogue<'a>(
    launch: Launch<'a>,
    bias: Option<&DeviceBuffer<f32>>,
    activation: Option<ActivationKind>,
    residual: Option<DeviceRows<'_>>,
) -> Launch<'a> {
    let launch = launch.optional(bias).int(activation_code(activation));
    match residual {
        Some(residual) => launch.buffer(residual.data, residual.offset).int(residual.stride),
        None => launch.optional::<f32>(None).int(0),
    }
}

/// Shared memory for a row of `k` elements.
fn staged_bytes(k: usize) -> usize {
    k.next_multiple_of(8) * size_of::<f32>()
}
