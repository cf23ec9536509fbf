//! Matrices on the device.

use std::sync::Arc;

use half::f16;

use super::driver::{Context, DeviceBuffer, DeviceMemory};
use crate::error::{KernelError, Result};
use crate::format::{Block, EncodedMatrix, Format};

/// Weights `[n, k]` on the device, row-major.
///
/// Floats lie as they are. Rows of all other formats are padded to 64 bytes of codes, and their scales are split in two:
/// what multiplies the sums of a row, in f32, and for formats with blocks what multiplies each of them, small enough for
/// 16 bits (`gemm_stream.cu` says how both and the codes are read).
#[derive(Debug)]
pub struct DeviceMatrix {
    pub(super) format: Format,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) data: DeviceBuffer<u8>,
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
    pub(super) row_scales: Option<DeviceBuffer<f32>>,
    pub(super) block_scales: Option<DeviceBuffer<u8>>,
    pub(super) block_len: usize,
}

/// Bytes of codes that rows are padded to: what four threads read at once.
const ROW_BYTES: usize = 64;

impl DeviceMatrix {
    /// Memory for a matrix, to be filled row by row.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`](super::driver::CudaError::OutOfMemory).
    pub fn zeros(context: &Arc<Context>, format: Format, n: usize, k: usize) -> Result<Self> {
        Self::with_blocks(context, format, n, k, format.spec().block_len(k))
    }

    /// Memory for a matrix whose blocks have another length than their format's own.
    ///
    /// # Errors
    /// As [`DeviceMatrix::zeros`]; [`KernelError::Shape`] for blocks that are not 16, 32, 64 or 128 long.
    pub fn with_blocks(
        context: &Arc<Context>,
        format: Format,
        n: usize,
        k: usize,
        block_len: usize,
    ) -> Result<Self> {
        let spec = format.spec();
        let has_blocks = matches!(spec.block, Block::Weights(_));
        if has_blocks && ![16, 32, 64, 128].contains(&block_len) {
            return Err(KernelError::Shape {
                op: "upload",
                what: "weights per scale",
                expected: 128,
                got: block_len,
            });
        }
        let code_bytes = (k * spec.code_bits).div_ceil(8);
        let pitch = if format.is_float() { code_bytes } else { code_bytes.next_multiple_of(ROW_BYTES) };
        let row_scales = (!format.is_float()).then(|| DeviceBuffer::zeros(context, n)).transpose()?;
        let mut matrix = Self {
            format,
            n,
            k,
            data: DeviceBuffer::zeros(context, n * pitch)?,
            pitch,
            row_scales,
            block_scales: None,
            block_len,
        };
        if has_blocks {
            matrix.block_scales = Some(DeviceBuffer::zeros(context, n * matrix.scale_pitch())?);
        }
        Ok(matrix)
    }

    /// Scales of a row, those of padding included.
    pub(super) fn blocks(&self) -> usize {
        2 * self.pitch / self.block_len
    }

    fn scale_pitch(&self) -> usize {
        self.blocks() * if matches!(self.format, Format::Int4 | Format::Nf4) { 2 } else { 1 }
    }

    /// Uploads rows `first ..`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when they are of another kind, or more than the matrix has.
    pub fn write_rows(&self, first: usize, rows: &EncodedMatrix) -> Result<()> {
        let shape = |what, expected, got| {
            if expected == got {
                Ok(())
            } else {
                Err(KernelError::Shape { op: "upload", what, expected, got })
            }
        };
        shape("columns", self.k, rows.k)?;
        shape("other formats", 0, usize::from(self.format != rows.format))?;
        if first + rows.n > self.n {
            shape("end of the rows", self.n, first + rows.n)?;
        }
        if self.format.is_float() {
            return Ok(self.data.write(first * self.pitch, &rows.data)?);
        }
        if matches!(self.format.spec().block, Block::Weights(_)) {
            shape("weights per scale", self.block_len, rows.block_len)?;
        }
        let mut codes = vec![0; rows.n * self.pitch];
        let mut row_scales = vec![0.0; rows.n];
        let mut block_scales = vec![0; rows.n * self.scale_pitch()];
        for row in 0..rows.n {
            let to = &mut codes[row * self.pitch..][..self.pitch];
            arrange_codes(self.format, rows.row_codes(row), to);
            let to = &mut block_scales[row * self.scale_pitch()..][..self.scale_pitch()];
            row_scales[row] = split_scales(self.format, rows.row_scales(row), rows.tensor_scale, to);
        }
        self.data.write(first * self.pitch, &codes)?;
        if let Some(scales) = &self.row_scales {
            scales.write(first, &row_scales)?;
        }
        if let Some(scales) = &self.block_scales {
            scales.write(first * self.scale_pitch(), &block_scales)?;
        }
        Ok(())
    }

    /// Format of the weights.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// Bytes on the device.
    pub fn size_bytes(&self) -> usize {
        let row_scales = self.row_scales.as_ref().map_or(0, DeviceMemory::size_bytes);
        let block_scales = self.block_scales.as_ref().map_or(0, DeviceMemory::size_bytes);
        self.data.size_bytes() + row_scales + block_scales
    }
}

/// Codes as `codes.cuh` reads them: of four bits, each word of eight neighbours with its bits where little is left to do for
/// halves to come out of it, integers unsigned.
fn arrange_codes(format: Format, codes: &[u8], out: &mut [u8]) {
    out[..codes.len()].copy_from_slice(codes);
    // Where the bits of a pair's code lie in its half of the word.
    let place: fn(u32, usize) -> u32 = match format {
        Format::Int4 => |code, pair| (code ^ 8) << (4 * pair),
        Format::Mxfp4 | Format::Nvfp4 => |code, pair| {
            let (sign, rest) = [(15, 9), (12, 6), (14, 0), (13, 3)][pair];
            (code >> 3) << sign | (code & 7) << rest
        },
        _ => return,
    };
    for bytes in out.as_chunks_mut::<4>().0 {
        let codes = u32::from_le_bytes(*bytes);
        let word = (0..8).fold(0, |word, at| word | place(codes >> (4 * at) & 15, at / 2) << (at % 2 * 16));
        *bytes = word.to_le_bytes();
    }
}

/// What multiplies a row's sum, and into `blocks` what multiplies each block.
fn split_scales(format: Format, scales: &[u8], tensor_scale: f32, blocks: &mut [u8]) -> f32 {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let halves = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
    };
    // A power of two keeps what is left of the scales exact, but for blocks 2^14 times smaller than the largest.
    let relative = |values: &[f32], blocks: &mut [u8]| {
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let factor = if largest > 0.0 { largest.log2().floor().exp2() } else { 1.0 };
        for (out, value) in blocks.as_chunks_mut().0.iter_mut().zip(values) {
            *out = f16::from_f32(value / factor).to_le_bytes();
        }
        factor
    };
    match format {
        Format::Int4 => relative(&halves(scales), blocks),
        Format::Nf4 => relative(&floats(scales), blocks),
        Format::Mxfp4 => {
            // Each stands for a power of two: how many times smaller than the largest.
            let largest = scales.iter().copied().max().unwrap_or(127);
            for (out, scale) in blocks.iter_mut().zip(scales) {
                *out = largest - scale;
            }
            (f32::from(largest) - 127.0).exp2()
        }
        Format::Nvfp4 => {
            blocks[..scales.len()].copy_from_slice(scales);
            tensor_scale
        }
        _ => floats(scales).first().copied().unwrap_or(1.0),
    }
}

/// A matrix `[rows, cols]` of activations inside a buffer: row `r` starts at element `offset + r * stride`.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRows<'a> {
    /// Where it lies.
    pub data: &'a dyn DeviceMemory,
    /// What the elements are, one of [`Format::FLOATS`].
    pub format: Format,
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
    /// A dense matrix of `f32` at the start of a buffer.
    pub fn dense(data: &'a DeviceBuffer<f32>, rows: usize, cols: usize) -> Self {
        Self { data, format: Format::F32, offset: 0, rows, cols, stride: cols }
    }

    pub(super) fn element_bytes(&self) -> usize {
        if self.format == Format::F32 { 4 } else { 2 }
    }

    /// Whether rows start at multiples of eight elements.
    pub(super) fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(8) && self.stride.is_multiple_of(8)
    }
}
