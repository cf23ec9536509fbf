//! Matrices on the device.

use std::sync::Arc;

use super::driver::{Context, DeviceBuffer};
use crate::error::{KernelError, Result};
use crate::format::Format;

/// Weights `[n, k]` on the device, row-major, in their format.
#[derive(Debug)]
pub struct DeviceMatrix {
    pub(super) format: Format,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) data: DeviceBuffer<u8>,
}

impl DeviceMatrix {
    /// Memory for a matrix, to be filled row by row.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`](super::driver::CudaError::OutOfMemory).
    pub fn zeros(context: &Arc<Context>, format: Format, n: usize, k: usize) -> Result<Self> {
        if !format.is_float() {
            return Err(KernelError::NoKernel { op: "load", format });
        }
        let data = DeviceBuffer::zeros(context, format.spec().encoded_bytes(n, k))?;
        Ok(Self { format, n, k, data })
    }

    /// Rounds rows `first ..` to the matrix's format and uploads them; `values [rows, k]`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when there are more rows than the matrix has.
    pub fn write_rows(&self, first: usize, values: &[f32]) -> Result<()> {
        let rows = values.len() / self.k.max(1);
        if rows * self.k != values.len() || first + rows > self.n {
            return Err(KernelError::Shape {
                op: "upload",
                what: "end of the rows",
                expected: self.n,
                got: first + rows,
            });
        }
        let encoded = self.format.encode(values, rows, self.k)?;
        let start = self.format.spec().encoded_bytes(first, self.k);
        Ok(self.data.write(start, &encoded.data)?)
    }

    /// Format of the weights.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes on the device.
    pub fn size_bytes(&self) -> usize {
        self.data.size_bytes()
    }
}

/// A matrix `[rows, cols]` of activations inside a buffer: row `r` starts at `data[offset + r * stride]`.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRows<'a> {
    /// Where it lies.
    pub data: &'a DeviceBuffer<f32>,
    /// First element.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a> DeviceRows<'a> {
    /// A dense matrix at the start of a buffer.
    pub fn dense(data: &'a DeviceBuffer<f32>, rows: usize, cols: usize) -> Self {
        Self { data, offset: 0, rows, cols, stride: cols }
    }
}
