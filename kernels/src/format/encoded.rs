//! A matrix in a storage format.

use super::{Format, RowLayout, largest};
use crate::error::{KernelError, Result};

/// A matrix `[n, k]` in a storage format, row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EncodedMatrix {
    /// The format of `data`.
    pub format: Format,
    /// Rows (output features).
    pub n: usize,
    /// Columns (input features).
    pub k: usize,
    /// Consecutive weights of a row that share a scale.
    pub block_len: usize,
    /// The codes, row after row, each padded to whole blocks with zeros; of two 4-bit codes the first is in the low
    /// nibble.
    pub data: Vec<u8>,
    /// The scales, `[n, blocks]`, in the encoding of the format's [`ScaleKind`](super::ScaleKind).
    pub scales: Vec<u8>,
    /// The scale of the whole matrix; 1 unless the format has one.
    pub tensor_scale: f32,
}

impl EncodedMatrix {
    /// A matrix whose rows are all zero, to be filled by [`encode_rows`](Self::encode_rows); `amax` is the largest
    /// magnitude that will be written.
    pub fn zeroed(format: Format, n: usize, k: usize, amax: f32) -> Self {
        let spec = format.spec();
        Self {
            format,
            n,
            k,
            block_len: spec.block_len(k),
            // Sizes beyond the address space saturate, and the allocation refuses them.
            data: vec![0; n.saturating_mul(spec.code_bytes(k))],
            scales: vec![0; n.saturating_mul(spec.scale_bytes(k))],
            tensor_scale: (spec.tensor_scale)(amax),
        }
    }

    pub(super) fn encode(format: Format, values: &[f32], n: usize, k: usize) -> Result<Self> {
        if n.checked_mul(k) != Some(values.len()) {
            let expected = n.saturating_mul(k);
            return Err(KernelError::Shape { op: "encode", what: "values", expected, got: values.len() });
        }
        let mut encoded = Self::zeroed(format, n, k, largest(values));
        encoded.encode_rows(0, values)?;
        Ok(encoded)
    }

    /// A matrix from codes and scales that a checkpoint stores; only the block length may differ from the format's own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] when codes or scales do not have the size that the shape asks for.
    pub fn from_parts(
        format: Format,
        (n, k): (usize, usize),
        block_len: usize,
        data: Vec<u8>,
        scales: Vec<u8>,
        tensor_scale: f32,
    ) -> Result<Self> {
        let encoded = Self { format, n, k, block_len, data, scales, tensor_scale };
        for (what, expected, got) in [
            ("bytes of codes", encoded.code_bytes().checked_mul(n), encoded.data.len()),
            ("bytes of scales", encoded.scale_bytes().checked_mul(n), encoded.scales.len()),
        ] {
            if expected != Some(got) {
                let expected = expected.unwrap_or(usize::MAX);
                return Err(KernelError::Shape { op: "encoded matrix", what, expected, got });
            }
        }
        Ok(encoded)
    }

    /// Rounds `values [rows, k]` into the rows from `first` on, which are zero before.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] unless the values are whole rows that the matrix has.
    pub fn encode_rows(&mut self, first: usize, values: &[f32]) -> Result<()> {
        if self.k == 0 {
            return Ok(());
        }
        let rows = values.len() / self.k;
        if rows * self.k != values.len() || first.saturating_add(rows) > self.n {
            let expected = self.n.saturating_sub(first).saturating_mul(self.k);
            return Err(KernelError::Shape { op: "encode", what: "values", expected, got: values.len() });
        }
        let (code_bytes, scale_bytes, layout) = (self.code_bytes(), self.scale_bytes(), self.layout());
        for (row, values) in (first..).zip(values.chunks_exact(self.k)) {
            let codes = &mut self.data[row * code_bytes..][..code_bytes];
            let scales = &mut self.scales[row * scale_bytes..][..scale_bytes];
            (self.format.spec().encode_row)(values, layout, codes, scales);
        }
        Ok(())
    }

    /// Widens the matrix to `out [n, k]`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] unless `out` has `n * k` elements.
    pub fn decode(&self, out: &mut [f32]) -> Result<()> {
        if self.n * self.k != out.len() {
            let expected = self.n * self.k;
            return Err(KernelError::Shape { op: "decode", what: "out", expected, got: out.len() });
        }
        (0..self.n)
            .zip(out.chunks_exact_mut(self.k.max(1)))
            .try_for_each(|(row, out)| self.decode_row(row, out))
    }

    /// Widens row `row` to `out [k]`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Index`] when there is no such row, [`KernelError::Shape`] when `out` does not have `k` elements.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        const OP: &str = "decode_row";
        if row >= self.n {
            return Err(KernelError::Index { op: OP, index: row, rows: self.n });
        }
        if out.len() != self.k {
            return Err(KernelError::Shape { op: OP, what: "out", expected: self.k, got: out.len() });
        }
        (self.format.spec().decode_row)(self.row_codes(row), self.row_scales(row), self.layout(), out);
        Ok(())
    }

    /// The codes of a row.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row_codes(&self, row: usize) -> &[u8] {
        &self.data[row * self.code_bytes()..][..self.code_bytes()]
    }

    /// The scales of a row.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row_scales(&self, row: usize) -> &[u8] {
        &self.scales[row * self.scale_bytes()..][..self.scale_bytes()]
    }

    /// Bytes of codes and scales.
    pub fn size_bytes(&self) -> usize {
        self.data.len() + self.scales.len()
    }

    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block_len.max(1))
    }

    pub(crate) fn code_bytes(&self) -> usize {
        let spec = self.format.spec();
        let padded = match spec.block {
            super::Block::Weights(_) => self.blocks() * self.block_len,
            _ => self.k,
        };
        (padded * spec.code_bits).div_ceil(8)
    }

    pub(crate) fn scale_bytes(&self) -> usize {
        self.blocks() * self.format.spec().scale.size_bytes()
    }

    pub(crate) fn layout(&self) -> RowLayout {
        RowLayout { block_len: self.block_len, tensor_scale: self.tensor_scale }
    }
}
