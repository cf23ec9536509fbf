//! Copies, sums and means of rows; element-wise functions. The kernels are in `rows.cu`.

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceMatrix, DeviceRows, activation_code, check};
use crate::args::ActivationKind;
use crate::error::{KernelError, Result};
use crate::format::Format;

const FILE: &str = "rows.cu";
const THREADS: usize = 256;

/// `y [m, k] = table[ids[m]]`.
#[derive(Clone, Copy, Debug)]
pub struct EmbedArgs<'a> {
    /// Table `[n, k]`.
    pub table: &'a DeviceMatrix,
    /// Row indices `[m]`.
    pub ids: &'a DeviceBuffer<u32>,
    /// Result `[m, k]`, dense.
    pub y: DeviceRows<'a>,
}

/// The mean over the visible tokens of each sequence: `x [batch * tokens, k]` to `y [batch, k]`.
#[derive(Clone, Copy, Debug)]
pub struct MeanPoolArgs<'a> {
    /// Input.
    pub x: DeviceRows<'a>,
    /// Tokens per sequence.
    pub tokens: usize,
    /// Visible tokens `[batch, tokens]`.
    pub mask: Option<&'a DeviceBuffer<u8>>,
    /// Result, dense.
    pub y: DeviceRows<'a>,
}

impl CudaKernels {
    /// Rows of a table.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn embed(&self, args: &EmbedArgs<'_>) -> Result<()> {
        let EmbedArgs { table, ids, y } = *args;
        check::dense("embed", "y", &y)?;
        check::equal("embed", "columns of y", table.k, y.cols)?;
        check::at_least("embed", "ids", y.rows, ids.len())?;
        let name = match table.format {
            Format::F32 => "embed_f32",
            Format::F16 => "embed_f16",
            Format::Bf16 => "embed_bf16",
            format => return Err(KernelError::NoKernel { op: "embed", format }),
        };
        let launch = Launch::new(&self.stream, self.function(FILE, name)?)
            .buffer(&table.data, 0)
            .buffer(ids, 0)
            .int(table.n)
            .int(table.k)
            .buffer(y.data, y.offset);
        // SAFETY: one block per row of `y`, checked above; the kernel clamps ids to the table.
        Ok(unsafe { launch.submit([y.rows, 1, 1], THREADS, 0, true) }?)
    }

    /// `y[r] = x[indices[r]]`, one row for each row of `y`.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn select_rows(
        &self,
        x: DeviceRows<'_>,
        indices: &DeviceBuffer<u32>,
        y: DeviceRows<'_>,
    ) -> Result<()> {
        check::rows("select_rows", "x", &x)?;
        check::dense("select_rows", "y", &y)?;
        check::equal("select_rows", "columns of y", x.cols, y.cols)?;
        check::at_least("select_rows", "indices", y.rows, indices.len())?;
        let launch = Launch::new(&self.stream, self.function(FILE, "select_rows")?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .buffer(indices, 0)
            .int(x.rows)
            .int(x.cols)
            .buffer(y.data, y.offset);
        // SAFETY: one block per row of `y`, checked above; the kernel clamps indices to the rows of `x`.
        Ok(unsafe { launch.submit([y.rows, 1, 1], THREADS, 0, true) }?)
    }

    /// Mean over the visible tokens of each sequence.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn mean_pool(&self, args: &MeanPoolArgs<'_>) -> Result<()> {
        let MeanPoolArgs { x, tokens, mask, y } = *args;
        check::rows("mean_pool", "x", &x)?;
        check::dense("mean_pool", "y", &y)?;
        check::equal("mean_pool", "columns of y", x.cols, y.cols)?;
        check::equal("mean_pool", "rows of x", y.rows * tokens, x.rows)?;
        check::at_most("mean_pool", "sequences", 65535, y.rows)?;
        check::vector("mean_pool", "mask", x.rows, mask)?;
        let launch = Launch::new(&self.stream, self.function(FILE, "mean_pool")?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(tokens)
            .int(x.cols)
            .optional(mask)
            .buffer(y.data, y.offset);
        // SAFETY: one thread per element of `y`, the kernel drops those beyond a row; `x` and the mask have
        // `tokens` rows and flags for each row of `y`.
        Ok(unsafe { launch.submit([x.cols.div_ceil(THREADS), y.rows, 1], THREADS, 0, true) }?)
    }

    /// `y = f(x)`.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn activate(&self, kind: ActivationKind, x: DeviceRows<'_>, y: DeviceRows<'_>) -> Result<()> {
        check::rows("activate", "x", &x)?;
        check::dense("activate", "y", &y)?;
        check::same("activate", "x", &x, &y)?;
        let launch = Launch::new(&self.stream, self.function(FILE, "activate")?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(x.rows)
            .int(x.cols)
            .int(activation_code(Some(kind)))
            .buffer(y.data, y.offset);
        // SAFETY: one thread per element, the kernel drops those beyond `rows * cols`; shapes were checked.
        Ok(unsafe { launch.submit(elements(&y)?, THREADS, 0, true) }?)
    }

    /// `y = f(gate) * up`.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn gate(
        &self,
        kind: ActivationKind,
        gate: DeviceRows<'_>,
        up: DeviceRows<'_>,
        y: DeviceRows<'_>,
    ) -> Result<()> {
        check::rows("gate", "gate", &gate)?;
        check::rows("gate", "up", &up)?;
        check::dense("gate", "y", &y)?;
        check::same("gate", "gate", &gate, &y)?;
        check::same("gate", "up", &up, &y)?;
        let launch = Launch::new(&self.stream, self.function(FILE, "gate")?)
            .buffer(gate.data, gate.offset)
            .int(gate.stride)
            .buffer(up.data, up.offset)
            .int(up.stride)
            .int(y.rows)
            .int(y.cols)
            .int(activation_code(Some(kind)))
            .buffer(y.data, y.offset);
        // SAFETY: one thread per element, the kernel drops those beyond `rows * cols`; shapes were checked.
        Ok(unsafe { launch.submit(elements(&y)?, THREADS, 0, true) }?)
    }

    /// `y = a + b`.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn add(&self, a: DeviceRows<'_>, b: DeviceRows<'_>, y: DeviceRows<'_>) -> Result<()> {
        check::rows("add", "a", &a)?;
        check::rows("add", "b", &b)?;
        check::dense("add", "y", &y)?;
        check::same("add", "a", &a, &y)?;
        check::same("add", "b", &b, &y)?;
        let launch = Launch::new(&self.stream, self.function(FILE, "add")?)
            .buffer(a.data, a.offset)
            .int(a.stride)
            .buffer(b.data, b.offset)
            .int(b.stride)
            .int(y.rows)
            .int(y.cols)
            .buffer(y.data, y.offset);
        // SAFETY: one thread per element, the kernel drops those beyond `rows * cols`; shapes were checked.
        Ok(unsafe { launch.submit(elements(&y)?, THREADS, 0, true) }?)
    }

    /// The largest element of each row of `x`, into `index [rows]`.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn argmax(&self, x: DeviceRows<'_>, index: &DeviceBuffer<u32>) -> Result<()> {
        check::rows("argmax", "x", &x)?;
        check::at_least("argmax", "index", x.rows, index.len())?;
        let launch = Launch::new(&self.stream, self.function(FILE, "argmax")?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(x.cols)
            .buffer(index, 0);
        // SAFETY: one block per row of `x`, checked above, each writes one index.
        Ok(unsafe { launch.submit([x.rows, 1, 1], 1024, 0, true) }?)
    }

    /// Rounds `x` to 16 bits, dense.
    pub(super) fn round_rows(
        &self,
        format: Format,
        x: &DeviceRows<'_>,
        y: &DeviceBuffer<half::f16>,
    ) -> Result<()> {
        check::rows("round_rows", "x", x)?;
        check::at_least("round_rows", "y", x.rows * x.cols, y.len())?;
        check::equal("round_rows", "odd columns", 0, x.cols % 2)?;
        let name = if format == Format::Bf16 { "round_rows_bf16" } else { "round_rows_f16" };
        let launch = Launch::new(&self.stream, self.function(FILE, name)?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(x.rows)
            .int(x.cols)
            .buffer(y, 0);
        let pairs = x.rows * x.cols / 2;
        // SAFETY: one thread per pair, the kernel drops those beyond; shapes were checked.
        Ok(unsafe { launch.submit([pairs.div_ceil(THREADS), 1, 1], THREADS, 0, true) }?)
    }
}

/// A grid with a thread for each element.
pub(super) fn elements(y: &DeviceRows<'_>) -> Result<[usize; 3]> {
    let blocks = (y.rows * y.cols).div_ceil(THREADS);
    if blocks > i32::MAX as usize {
        return Err(KernelError::Shape {
            op: "launch",
            what: "blocks",
            expected: i32::MAX as usize,
            got: blocks,
        });
    }
    Ok([blocks, 1, 1])
}
