//! Copies, sums and means of rows; element-wise functions. The kernels are in `rows.cu`.

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceMatrix, DeviceRows, activation_code, check, float_code};
use crate::args::ActivationKind;
use crate::error::{KernelError, Result};

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
        if !table.format.is_float() {
            return Err(KernelError::NoKernel { op: "embed", format: table.format });
        }
        let launch = Launch::new(&self.stream, self.function(FILE, "embed")?)
            .buffer(&table.data, 0)
            .int(float_code(table.format))
            .buffer(ids, 0)
            .int(table.n)
            .int(table.k)
            .result(&y);
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
            .rows(&x)
            .buffer(indices, 0)
            .int(x.rows)
            .int(x.cols)
            .result(&y);
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
            .rows(&x)
            .int(tokens)
            .int(x.cols)
            .optional(mask)
            .result(&y);
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
            .rows(&x)
            .int(x.rows)
            .int(x.cols)
            .int(activation_code(Some(kind)))
            .result(&y)
            .int(y.stride);
        // SAFETY: one thread per eight elements of a row, the kernel drops those beyond; shapes were checked.
        Ok(unsafe { launch.submit(eighths(&y)?, THREADS, 0, true) }?)
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
            .rows(&gate)
            .rows(&up)
            .int(y.rows)
            .int(y.cols)
            .int(activation_code(Some(kind)))
            .result(&y);
        // SAFETY: one thread per eight elements of a row, the kernel drops those beyond; shapes were checked.
        Ok(unsafe { launch.submit(eighths(&y)?, THREADS, 0, true) }?)
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
            .rows(&a)
            .rows(&b)
            .int(y.rows)
            .int(y.cols)
            .result(&y);
        // SAFETY: one thread per eight elements of a row, the kernel drops those beyond; shapes were checked.
        Ok(unsafe { launch.submit(eighths(&y)?, THREADS, 0, true) }?)
    }

    /// Reads all of `x` and does nothing else, for measuring the memory's bandwidth.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for less than a block's worth of memory.
    pub fn read_all(&self, x: &DeviceBuffer<f32>, out: &DeviceBuffer<f32>) -> Result<()> {
        check::at_least("read_all", "elements", 1 << 14, x.len())?;
        let blocks = 8 * self.context().multiprocessors();
        check::at_least("read_all", "results", blocks, out.len())?;
        let launch = Launch::new(&self.stream, self.function(FILE, "read_all")?)
            .buffer(x, 0)
            .int(x.len() / 4)
            .buffer(out, 0);
        // SAFETY: threads take existing 16-byte pieces in turns, each block writes one result.
        Ok(unsafe { launch.submit([blocks, 1, 1], THREADS, 0, false) }?)
    }
}

/// A grid with a thread for each element.
pub(super) fn elements(y: &DeviceRows<'_>) -> Result<[usize; 3]> {
    threads(y.rows * y.cols)
}

/// A grid with a thread for each eight elements of a row.
fn eighths(y: &DeviceRows<'_>) -> Result<[usize; 3]> {
    threads(y.rows * y.cols.div_ceil(8))
}

pub(super) fn threads(count: usize) -> Result<[usize; 3]> {
    let blocks = count.div_ceil(THREADS);
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
