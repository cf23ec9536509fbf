//! Keys, or values, of the tokens seen so far: what decoding reads again for every token.
//!
//! A row, the elements of one head at one token, is rounded once, when it is stored: to [`Format::F16`], or to
//! [`Format::Int8`] with a scale of its own, as the rows of weights are. It is read as codes.

use super::op_table::{TokenData, TokenRows};
use super::output::Output;
use super::storage::Storage;
use crate::args::HeadsShape;
use crate::error::{KernelError, Result};
use crate::format::{Format, RowLayout, int8};

/// Keys, or values, of all sequences in one layer: rows `[batch, heads, capacity]` of `head_dim` elements.
///
/// Rows that were never written are zero.
#[derive(Clone)]
pub struct HeadCache {
    format: Format,
    shape: HeadsShape,
    /// Codes, row by row.
    codes: Storage,
    /// One per row, in formats that have scales.
    scales: Vec<f32>,
}

impl std::fmt::Debug for HeadCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { format, shape, .. } = self;
        f.debug_struct("HeadCache").field("format", format).field("shape", shape).finish_non_exhaustive()
    }
}

impl HeadCache {
    /// What caches can be kept in: attention reads these as they are.
    pub const FORMATS: &'static [Format] = &[Format::F32, Format::F16, Format::Int8];

    /// A cache of zeros. Memory is taken as it is written.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoKernel`] for formats that are not in [`HeadCache::FORMATS`], [`KernelError::Shape`] for more
    /// bytes than can be addressed, [`KernelError::OutOfMemory`] for more than the system gives.
    pub fn zeroed(format: Format, shape: HeadsShape) -> Result<Self> {
        const OP: &str = "key-value cache";
        if !Self::FORMATS.contains(&format) {
            return Err(KernelError::NoKernel { op: OP, format });
        }
        let spec = format.spec();
        let rows = shape.rows();
        let size_bytes = rows.saturating_mul(spec.code_bytes(shape.head_dim));
        if size_bytes > isize::MAX as usize {
            let (expected, got) = (isize::MAX as usize, size_bytes);
            return Err(KernelError::Shape { op: OP, what: "bytes", expected, got });
        }
        let scales = if spec.scale.size_bytes() > 0 { rows } else { 0 };
        let codes = Storage::try_sparse(size_bytes).zip(bytemuck::allocation::try_zeroed_vec(scales).ok());
        let (codes, scales) = codes.ok_or(KernelError::OutOfMemory {
            what: "the keys or values of a layer",
            needed_bytes: size_bytes.saturating_add(scales.saturating_mul(size_of::<f32>())),
        })?;
        Ok(Self { format, shape, codes, scales })
    }

    /// A cache that holds `values [batch, heads, capacity, head_dim]`, rounded.
    ///
    /// # Errors
    ///
    /// As [`HeadCache::zeroed`]; [`KernelError::Shape`] for another number of values.
    pub fn encode(format: Format, shape: HeadsShape, values: &[f32]) -> Result<Self> {
        let mut cache = Self::zeroed(format, shape)?;
        let expected = shape.rows().saturating_mul(shape.head_dim);
        if values.len() != expected {
            let (op, what, got) = ("key-value cache", "values", values.len());
            return Err(KernelError::Shape { op, what, expected, got });
        }
        for (row, values) in values.chunks_exact(shape.head_dim.max(1)).enumerate() {
            cache.encode_row(row, values);
        }
        Ok(cache)
    }

    /// What it holds, `[batch, heads, capacity, head_dim]`.
    pub fn decode(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.rows() * self.shape.head_dim];
        for (row, values) in values.chunks_exact_mut(self.shape.head_dim.max(1)).enumerate() {
            self.decode_row(row, values);
        }
        values
    }

    /// Format of the rows.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Sizes.
    pub fn shape(&self) -> HeadsShape {
        self.shape
    }

    /// Bytes of codes and scales.
    pub fn size_bytes(&self) -> usize {
        self.shape.rows() * self.row_bytes() + size_of_val(self.scales.as_slice())
    }

    /// Stores `values [head_dim]` as row `row`.
    pub(crate) fn encode_row(&mut self, row: usize, values: &[f32]) {
        // SAFETY: nobody else has this writer.
        unsafe { self.writer(int8::round).write(row, values) };
    }

    /// Row `row`, decoded to `out [head_dim]`.
    pub(crate) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let codes = &self.codes.bytes()[row * self.row_bytes()..][..self.row_bytes()];
        let scale = self.scales.get(row).map(|scale| scale.to_le_bytes());
        let scale = scale.as_ref().map_or(&[][..], |bytes| bytes);
        (self.format.spec().decode_row)(codes, scale, self.layout(), out);
    }

    /// To store rows with. `round` rounds a row to integers and returns its scale.
    pub(super) fn writer(&mut self, round: unsafe fn(&[f32], &mut [u8]) -> f32) -> RowWriter<'_> {
        let (format, layout, row_bytes) = (self.format, self.layout(), self.row_bytes());
        let codes = &mut self.codes.bytes_mut()[..self.shape.rows() * row_bytes];
        RowWriter {
            format,
            layout,
            row_bytes,
            round,
            codes: Output::new(codes),
            scales: Output::new(self.scales.as_mut_slice()),
        }
    }

    /// The rows of one head of one sequence.
    pub(super) fn head(&self, sequence: usize, head: usize) -> TokenRows<'_> {
        let first = (sequence * self.shape.heads + head) * self.shape.capacity;
        let rows = first..first + self.shape.capacity;
        let codes = &self.codes.bytes()[rows.start * self.row_bytes()..rows.end * self.row_bytes()];
        let data = match self.format {
            Format::F16 => TokenData::F16(bytemuck::cast_slice(codes)),
            Format::Int8 => TokenData::Int8(bytemuck::cast_slice(codes)),
            _ => TokenData::F32(bytemuck::cast_slice(codes)),
        };
        let scales = (!self.scales.is_empty()).then(|| &self.scales[rows]);
        TokenRows { data, stride: self.shape.head_dim, scales }
    }

    fn row_bytes(&self) -> usize {
        self.format.spec().code_bytes(self.shape.head_dim)
    }

    fn layout(&self) -> RowLayout {
        RowLayout { block_len: self.shape.head_dim.max(1), tensor_scale: 1.0 }
    }
}

/// Stores rows, on several threads at once.
pub(super) struct RowWriter<'a> {
    format: Format,
    layout: RowLayout,
    row_bytes: usize,
    round: unsafe fn(&[f32], &mut [u8]) -> f32,
    codes: Output<'a, u8>,
    scales: Output<'a, f32>,
}

impl RowWriter<'_> {
    /// Rounds `values [head_dim]` and stores them as row `row`.
    ///
    /// # Safety
    ///
    /// Nobody else writes this row meanwhile, and the processor has what `round` is compiled for.
    pub(super) unsafe fn write(&self, row: usize, values: &[f32]) {
        // SAFETY: by the caller's promise the row is written by this call alone, and nobody reads while there is a
        // writer, which borrows the cache.
        let (codes, scales) = unsafe {
            let scales = if self.scales.is_empty() { 0..0 } else { row..row + 1 };
            (self.codes.range(row * self.row_bytes..(row + 1) * self.row_bytes), self.scales.range(scales))
        };
        match (self.format, &mut *scales) {
            // SAFETY: the caller's promise.
            (Format::Int8, [scale]) => *scale = unsafe { (self.round)(values, codes) },
            _ => {
                (self.format.spec().encode_row)(values, self.layout, codes, bytemuck::cast_slice_mut(scales))
            }
        }
    }
}
