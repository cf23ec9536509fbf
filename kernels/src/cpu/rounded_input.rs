//! Inputs of products, rounded once for all the products that read them.

use super::buffer::Buffer;
use super::op_table::{OpTable, PIECE_BYTES, RoundedKernels, RoundedRow};
use crate::args::InputRounding;
use crate::error::Result;

/// What inputs are rounded to before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputKind(pub(super) Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Integers of 8 bits.
    Int8(InputRounding),
    /// Bf16, without a scale.
    Brain,
}

impl Kind {
    /// The functions that round to it and multiply it, where the table has some.
    pub(super) fn kernels(self, table: &OpTable) -> Option<&RoundedKernels> {
        match self {
            Kind::Int8(_) => Some(&table.integer),
            Kind::Brain => table.brain.as_ref().map(|brain| &brain.product),
        }
    }

    pub(super) fn rounding(self) -> InputRounding {
        match self {
            Kind::Int8(rounding) => rounding,
            Kind::Brain => InputRounding::None,
        }
    }

    /// Pieces of a row of `k` inputs.
    pub(super) fn pieces(self, k: usize) -> usize {
        let terms = match self {
            Kind::Int8(_) => PIECE_BYTES,
            Kind::Brain => PIECE_BYTES / 2,
        };
        k.div_ceil(terms)
    }

    /// Floats of memory that the codes of a row take.
    pub(super) fn words(self, k: usize) -> usize {
        self.pieces(k) * PIECE_BYTES / size_of::<f32>()
    }
}

/// Inputs of products `[rows, cols]`, rounded.
///
/// It keeps its memory when it is written again, so a program that runs again allocates nothing.
#[derive(Debug, Default)]
pub struct RoundedInput {
    kind: Option<InputKind>,
    rows: usize,
    cols: usize,
    codes: Buffer,
    row_words: Buffer,
}

/// Memory of rounded inputs.
pub(super) struct RoundedMemory<'a> {
    /// `[pieces, rows, 64]` bytes for each block of rows.
    pub(super) codes: &'a mut [f32],
    /// Two words for each row: a [`RoundedRow`].
    pub(super) rows: &'a mut [f32],
}

/// Rounded inputs as products read them.
#[derive(Clone, Copy)]
pub(super) struct RoundedView<'a> {
    pub(super) codes: &'a [i8],
    pub(super) rows: &'a [RoundedRow],
}

impl<'a> RoundedMemory<'a> {
    pub(super) fn view(self) -> RoundedView<'a> {
        RoundedView { codes: bytemuck::cast_slice(self.codes), rows: bytemuck::cast_slice(self.rows) }
    }
}

impl RoundedInput {
    /// What it holds: the kind, and how many rows and columns; `None` before it is first written.
    pub fn holds(&self) -> Option<(InputKind, usize, usize)> {
        self.kind.map(|kind| (kind, self.rows, self.cols))
    }

    /// Memory for other inputs, of unspecified content.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfMemory`](crate::KernelError::OutOfMemory).
    pub(super) fn begin(&mut self, kind: InputKind, rows: usize, cols: usize) -> Result<RoundedMemory<'_>> {
        let lens = [rows * kind.0.words(cols), 2 * rows];
        for (buffer, len) in [&mut self.codes, &mut self.row_words].into_iter().zip(lens) {
            if buffer.len() < len {
                *buffer = Buffer::zeroed(len)?;
            }
        }
        (self.kind, self.rows, self.cols) = (Some(kind), rows, cols);
        Ok(RoundedMemory { codes: &mut self.codes[..lens[0]], rows: &mut self.row_words[..lens[1]] })
    }

    pub(super) fn view(&self) -> RoundedView<'_> {
        let words = self.kind.map_or(0, |kind| self.rows * kind.0.words(self.cols));
        RoundedView {
            codes: bytemuck::cast_slice(&self.codes[..words]),
            rows: bytemuck::cast_slice(&self.row_words[..2 * self.rows]),
        }
    }
}
