//! Weights `w [n, k]` in the order the products read them.
//!
//! A *panel* holds `panel_width` consecutive rows of `w`, interleaved along `k`: for each `k` come the weights of
//! all its rows, so a vector load yields the same `k` of neighbouring outputs.
//! The last panel is padded with zero rows. Weights stay in their own format and are widened on load; one layout
//! serves products of many rows and of one, and there is no second copy.

use std::fmt;
use std::ops::Range;

use super::element::Element;
use super::storage::Storage;
use crate::error::{KernelError, Result};
use crate::format::{EncodedMatrix, Format, largest};

/// Fills `out [range.len(), k]` with the rows of a range.
pub type ReadRows<'a, E> = dyn FnMut(Range<usize>, &mut [f32]) -> std::result::Result<(), E> + 'a;

/// Weights `[n, k]` packed for one instruction set; see [`CpuKernels::pack`](super::CpuKernels::pack).
#[derive(Clone)]
pub struct PackedMatrix {
    format: Format,
    element: Element,
    n: usize,
    k: usize,
    panel_width: usize,
    storage: Storage,
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
        Self::pack_as_read(format, n, k, panel_width, &mut |range, rows| {
            read_rows(range, rows)?;
            if !format.is_float() {
                round(format, amax, k, rows);
            }
            Ok(())
        })
    }

    pub(super) fn pack_encoded(encoded: &EncodedMatrix, panel_width: usize) -> Result<Self> {
        let EncodedMatrix { format, n, k, .. } = *encoded;
        Self::pack_as_read(format, n, k, panel_width, &mut |range, rows| {
            range.zip(rows.chunks_exact_mut(k.max(1))).try_for_each(|(row, out)| encoded.decode_row(row, out))
        })
    }

    /// Packs rows that hold numbers of the format already.
    fn pack_as_read<E>(
        format: Format,
        n: usize,
        k: usize,
        panel_width: usize,
        read_rows: &mut ReadRows<'_, E>,
    ) -> std::result::Result<Self, E> {
        let element = Element::from(format);
        // Sizes beyond the address space saturate, and the allocation below refuses them.
        let panel_size = panel_width.saturating_mul(k).saturating_mul(element.size());
        let size = n.div_ceil(panel_width).saturating_mul(panel_size);
        let mut packed = Self { format, element, n, k, panel_width, storage: Storage::zeroed(size) };
        if size == 0 {
            return Ok(packed);
        }
        let mut rows = vec![0.0; panel_width * k];
        let mut panel = vec![0.0; panel_width * k];
        for (p, bytes) in
            packed.storage.bytes_mut().chunks_exact_mut(panel_size).take(n.div_ceil(panel_width)).enumerate()
        {
            let range = p * panel_width..n.min((p + 1) * panel_width);
            let valid = range.len();
            read_rows(range, &mut rows[..valid * k])?;
            rows[valid * k..].fill(0.0);
            interleave(&rows, &mut panel, panel_width, k);
            element.format().narrow(&panel, bytes);
        }
        Ok(packed)
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

    /// Bytes of memory the weights occupy, padding included.
    pub fn size_bytes(&self) -> usize {
        self.bytes().len()
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
        match self.element.size() {
            2 => self.gather_row::<2>(row, out),
            _ => self.gather_row::<4>(row, out),
        }
        Ok(())
    }

    /// Gathers a row of elements of `SIZE` bytes and widens it, a piece at a time.
    fn gather_row<const SIZE: usize>(&self, row: usize, out: &mut [f32]) {
        let step = self.panel_width * SIZE;
        let first = row / self.panel_width * self.panel_size() + row % self.panel_width * SIZE;
        let mut weights = self.bytes()[first.min(self.bytes().len())..].chunks(step);
        let mut piece = [[0; SIZE]; 128];
        for out in out.chunks_mut(piece.len()) {
            let piece = &mut piece[..out.len()];
            for (to, from) in piece.iter_mut().zip(&mut weights) {
                to.copy_from_slice(&from[..SIZE]);
            }
            self.element.format().widen(piece.as_flattened(), out);
        }
    }

    /// What the panels consist of.
    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// Rows per panel.
    pub(super) fn panel_width(&self) -> usize {
        self.panel_width
    }

    /// Bytes of a panel.
    pub(super) fn panel_size(&self) -> usize {
        self.panel_width * self.k * self.element.size()
    }

    /// All panels, one after the other: at least `n.div_ceil(panel_width) * panel_size` bytes, 64-byte aligned.
    pub(super) fn bytes(&self) -> &[u8] {
        self.storage.bytes()
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

/// Rounds whole rows of `k` values to a format.
fn round(format: Format, amax: f32, k: usize, rows: &mut [f32]) {
    let mut encoded = EncodedMatrix::zeroed(format, rows.len() / k, k, amax);
    // Cannot fail: these are as many rows as the matrix has.
    let _ = encoded.encode_rows(0, rows);
    let _ = encoded.decode(rows);
}

/// Transposes `rows [width, k]` to `panel [k, width]`, a few cache lines of `k` at a time.
fn interleave(rows: &[f32], panel: &mut [f32], width: usize, k: usize) {
    const BLOCK: usize = 64;
    for first in (0..k).step_by(BLOCK) {
        let block = first..k.min(first + BLOCK);
        for (r, row) in rows.chunks_exact(k).enumerate() {
            for i in block.clone() {
                panel[i * width + r] = row[i];
            }
        }
    }
}
