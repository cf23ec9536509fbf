//! Weights `w [n, k]` in the order the products read them.
//!
//! A *panel* holds `panel_width` consecutive rows of `w`: their codes, cut into [units](super::unit) and interleaved,
//! so that a vector load yields the same `k` of neighbouring outputs, and behind them their scales, `[blocks,
//! panel_width]`, in the encoding of the format. The last panel is padded with rows of zeros.
//! Weights stay in their own format and are decoded on load; one layout serves products of many rows and of one, and
//! there is no second copy.

use std::fmt;
use std::ops::Range;

use super::grid::{Grid, MAX_BLOCK};
use super::scratch::with_scratch;
use super::storage::Storage;
use crate::error::{KernelError, Result};
use crate::format::{Block, Codes, EncodedMatrix, Format, RowLayout, ScaleKind, largest};

/// Fills `out [range.len(), k]` with the rows of a range.
pub type ReadRows<'a, E> = dyn FnMut(Range<usize>, &mut [f32]) -> std::result::Result<(), E> + 'a;

/// A cache line; codes and scales of a panel start at one.
const LINE_BYTES: usize = 64;

/// Weights `[n, k]` packed for one instruction set; see [`CpuKernels::pack`](super::CpuKernels::pack).
#[derive(Clone)]
pub struct PackedMatrix {
    format: Format,
    n: usize,
    k: usize,
    layout: RowLayout,
    panel_width: usize,
    /// Units of a row, padding included.
    units: usize,
    /// Bytes of a panel's codes, and of a panel.
    codes_size: usize,
    panel_size: usize,
    storage: Storage,
}

/// The scales of one panel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scales {
    /// Every code stands for itself.
    None,
    /// `f32 [panel_width]`, one per row, multiplied onto finished sums.
    Rows(*const f32),
    /// `[blocks, panel_width]`, multiplied onto the sum of each block.
    Blocks(BlockScales),
}

/// Scales of blocks of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockScales {
    /// `[blocks, panel_width]`, as `kind` says.
    pub(super) first: *const u8,
    pub(super) kind: ScaleKind,
    pub(super) block_len: usize,
    /// Multiplied onto every scale.
    pub(super) tensor_scale: f32,
}

impl PackedMatrix {
    pub(super) fn pack<E>(
        format: Format,
        n: usize,
        k: usize,
        panel_width: usize,
        read_rows: &mut ReadRows<'_, E>,
    ) -> std::result::Result<Self, E> {
        let mut amax = 0.0;
        if format.has_tensor_scale() {
            let mut row = vec![0.0; k];
            for r in 0..n {
                read_rows(r..r + 1, &mut row)?;
                amax = largest(&row).max(amax);
            }
        }
        let rows_at_once = panel_width.min(n);
        let mut encoded = EncodedMatrix::zeroed(format, rows_at_once, k, amax);
        let mut packed = Self::zeroed(&encoded, n, panel_width);
        let mut rows = vec![0.0; rows_at_once.saturating_mul(k)];
        for first in (0..n).step_by(panel_width) {
            let range = first..n.min(first + panel_width);
            let rows = &mut rows[..range.len() * k];
            read_rows(range.clone(), rows)?;
            encoded.data.fill(0);
            // Cannot fail: these are no more rows than the matrix has.
            let _ = encoded.encode_rows(0, rows);
            packed.set_panel(first / panel_width, &encoded, 0..range.len());
        }
        Ok(packed)
    }

    pub(super) fn pack_encoded(encoded: &EncodedMatrix, panel_width: usize) -> Result<Self> {
        let (spec, block_len) = (encoded.format.spec(), encoded.block_len);
        let expected = match spec.block {
            Block::Weights(_) => spec.codes.terms(),
            _ => spec.block_len(encoded.k),
        };
        if block_len == 0 || !block_len.is_multiple_of(expected) {
            let (op, what) = ("pack", "weights per scale");
            return Err(KernelError::Shape { op, what, expected, got: block_len });
        }
        let mut packed = Self::zeroed(encoded, encoded.n, panel_width);
        for first in (0..encoded.n).step_by(panel_width) {
            packed.set_panel(first / panel_width, encoded, first..encoded.n.min(first + panel_width));
        }
        Ok(packed)
    }

    /// Space for `n` rows like those of `like`.
    fn zeroed(like: &EncodedMatrix, n: usize, panel_width: usize) -> Self {
        let codes = like.format.spec().codes;
        let units = like.code_bytes().div_ceil(codes.unit_size()).next_multiple_of(codes.unit_group());
        // Sizes beyond the address space saturate, and the allocation refuses them.
        let lines = |size: usize| size.saturating_mul(panel_width).div_ceil(LINE_BYTES) * LINE_BYTES;
        let codes_size = lines(units.saturating_mul(codes.unit_size()));
        let panel_size = codes_size.saturating_add(lines(like.scale_bytes()));
        let storage = Storage::zeroed(n.div_ceil(panel_width).saturating_mul(panel_size));
        let (format, k, layout) = (like.format, like.k, like.layout());
        Self { format, n, k, layout, panel_width, units, codes_size, panel_size, storage }
    }

    /// Fills a panel with some rows.
    fn set_panel(&mut self, panel: usize, encoded: &EncodedMatrix, rows: Range<usize>) {
        let (width, unit_size) = (self.panel_width, self.format.spec().codes.unit_size());
        let scale_size = self.format.spec().scale.size_bytes();
        let panel = &mut self.storage.bytes_mut()[panel * self.panel_size..][..self.panel_size];
        let (codes, scales) = panel.split_at_mut(self.codes_size);
        if self.format.spec().scale == ScaleKind::E8m0 {
            scales.fill(ONE_E8M0);
        }
        for (r, row) in rows.enumerate() {
            transpose(encoded.row_codes(row), unit_size, codes, r, width);
            transpose(encoded.row_scales(row), scale_size, scales, r, width);
            settle_scales(encoded, row, |block, scale| {
                scales[(block * width + r) * scale_size..][..scale_size].copy_from_slice(scale);
            });
        }
    }

    /// The storage format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows (output features).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns (input features).
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory the weights occupy, scales and padding included.
    pub fn size_bytes(&self) -> usize {
        self.storage.bytes().len()
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
        let (width, r, spec) = (self.panel_width, row % self.panel_width, self.format.spec());
        let (unit_size, scale_size) = (spec.codes.unit_size(), spec.scale.size_bytes());
        let panel = &self.storage.bytes()[row / width * self.panel_size..][..self.panel_size];
        let (codes, scales) = panel.split_at(self.codes_size);
        let blocks = if scale_size == 0 { 0 } else { self.k.div_ceil(self.layout.block_len.max(1)) };
        let sizes = [self.units * unit_size, blocks * scale_size].map(|size| size.next_multiple_of(4));
        with_scratch((sizes[0] + sizes[1]) / 4, |scratch| {
            let (row_codes, row_scales) = bytemuck::cast_slice_mut::<f32, u8>(scratch).split_at_mut(sizes[0]);
            gather(codes, unit_size, r, width, &mut row_codes[..self.units * unit_size]);
            gather(scales, scale_size, r, width, &mut row_scales[..blocks * scale_size]);
            let code_bytes = (self.k * spec.code_bits).div_ceil(8);
            (spec.decode_row)(&row_codes[..code_bytes], &row_scales[..blocks * scale_size], self.layout, out);
        });
        Ok(())
    }

    /// What the codes mean.
    pub(super) fn codes(&self) -> Codes {
        self.format.spec().codes
    }

    /// Rows per panel.
    pub(super) fn panel_width(&self) -> usize {
        self.panel_width
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.panel_width)
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_size(&self) -> usize {
        self.panel_size
    }

    /// Units of a row, padding included.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// The codes of some terms of a panel; the first term starts a unit. 64-byte aligned for term 0.
    pub(super) fn panel_codes(&self, panel: usize, terms: &Range<usize>) -> &[u8] {
        let codes = self.codes();
        let unit = self.panel_width * codes.unit_size();
        let units = terms.start / codes.terms()..terms.end.div_ceil(codes.terms());
        &self.codes_from(panel, terms.start)[..units.len() * unit]
    }

    /// Everything from term `first` of a panel on, the following panels included.
    pub(super) fn codes_from(&self, panel: usize, first: usize) -> &[u8] {
        let unit = self.panel_width * self.codes().unit_size();
        &self.storage.bytes()[panel * self.panel_size + first / self.codes().terms() * unit..]
    }

    /// The scales of a panel, and behind them the following panels, from the block that holds the first of some terms
    /// on; those of whole rows only with the last terms.
    pub(super) fn panel_scales(&self, panel: usize, terms: &Range<usize>) -> Scales {
        let spec = self.format.spec();
        let bytes = &self.storage.bytes()[panel * self.panel_size + self.codes_size..];
        match spec.block {
            Block::Element => Scales::None,
            Block::Row if terms.end < self.k => Scales::None,
            Block::Row => Scales::Rows(bytes.as_ptr().cast()),
            Block::Weights(_) => {
                let RowLayout { block_len, tensor_scale } = self.layout;
                let first = terms.start / block_len * self.panel_width * spec.scale.size_bytes();
                let first = bytes[first..].as_ptr();
                Scales::Blocks(BlockScales { first, kind: spec.scale, block_len, tensor_scale })
            }
        }
    }

    /// The grid that the weights lie on before scales, unless it is too fine for bytes or too many of them share a scale.
    pub(super) fn grid(&self) -> Option<Grid> {
        if self.block_len().is_some_and(|len| len > MAX_BLOCK) { None } else { Grid::of(self.codes()) }
    }

    /// Weights that share a scale, when that is less than a row.
    pub(super) fn block_len(&self) -> Option<usize> {
        matches!(self.format.spec().block, Block::Weights(_)).then_some(self.layout.block_len)
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedMatrix")
            .field("format", &self.format)
            .field("n", &self.n)
            .field("k", &self.k)
            .field("panel_width", &self.panel_width)
            .finish_non_exhaustive()
    }
}

/// The code of the scale 1.
const ONE_E8M0: u8 = 127;

/// Replaces scales of a row by ones that mean the same to a product and that kernels need not look for: a row of E4M3
/// codes with a NaN has NaN results, so it gets the scale NaN, and the scale of zeros may as well be 1 as the smallest
/// power of two, which processors multiply by slowly.
fn settle_scales(encoded: &EncodedMatrix, row: usize, mut set: impl FnMut(usize, &[u8])) {
    let (codes, spec) = (encoded.row_codes(row), encoded.format.spec());
    match (spec.codes, spec.scale) {
        (Codes::E4m3, _) if codes.iter().any(|code| code & 0x7f == 0x7f) => set(0, &f32::NAN.to_le_bytes()),
        (_, ScaleKind::E8m0) => {
            for (block, codes) in codes.chunks(encoded.block_len * spec.code_bits / 8).enumerate() {
                if codes.iter().all(|codes| *codes == 0) {
                    set(block, &[ONE_E8M0]);
                }
            }
        }
        _ => {}
    }
}

/// Puts the units of a row into column `column` of `panel [units, width]`; the last unit may be cut short.
fn transpose(row: &[u8], unit_size: usize, panel: &mut [u8], column: usize, width: usize) {
    match unit_size {
        1 => transpose_units::<1>(row, panel, column, width),
        2 => transpose_units::<2>(row, panel, column, width),
        4 => transpose_units::<4>(row, panel, column, width),
        _ => {}
    }
}

fn transpose_units<const SIZE: usize>(row: &[u8], panel: &mut [u8], column: usize, width: usize) {
    let (units, tail) = row.as_chunks::<SIZE>();
    let panel = panel.as_chunks_mut::<SIZE>().0;
    for (unit, panel) in units.iter().zip(panel.iter_mut().skip(column).step_by(width)) {
        *panel = *unit;
    }
    if !tail.is_empty() {
        panel[units.len() * width + column][..tail.len()].copy_from_slice(tail);
    }
}

/// The reverse of [`transpose`].
fn gather(panel: &[u8], unit_size: usize, column: usize, width: usize, row: &mut [u8]) {
    match unit_size {
        1 => gather_units::<1>(panel, column, width, row),
        2 => gather_units::<2>(panel, column, width, row),
        4 => gather_units::<4>(panel, column, width, row),
        _ => {}
    }
}

fn gather_units<const SIZE: usize>(panel: &[u8], column: usize, width: usize, row: &mut [u8]) {
    let panel = panel.as_chunks::<SIZE>().0;
    let panel = panel.get(column..).unwrap_or_default().iter().step_by(width);
    for (unit, panel) in row.as_chunks_mut::<SIZE>().0.iter_mut().zip(panel) {
        *unit = *panel;
    }
}
