//! What the sums of products end with, while the tiles are at the next ones.

use std::arch::x86_64::*;
use std::ops::Range;

use super::PANEL_WIDTH;
use super::piece::TileProduct;
use super::tile::TILE_ROWS;
use crate::args::ActivationKind;
use crate::cpu::op_table::{PIECE_BYTES, RoundedProduct};
use crate::cpu::vector::math::activation;
use crate::cpu::x86_64::avx512::integer::Columns;
use crate::cpu::x86_64::avx512::vector::F32x16;

/// Rows whose sums are finished together.
const ROWS_AT_ONCE: usize = 2;

/// Sums of 32 bits, row by row.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sums([[i32; PANEL_WIDTH]; 2 * TILE_ROWS]);

/// A panel's sums, which become results a few rows at a time.
///
/// All at once, results that come from memory to be written would hold up the loads of tiles.
pub(super) struct Ends {
    product: RoundedProduct,
    panel: usize,
    columns: [Columns; 2],
    w_scales: [__m512; 2],
    sums: *const Sums,
    /// Whether results are written past the caches.
    streams: bool,
    /// The first row that is not finished.
    row: usize,
    /// What is due of the next rows, in parts of a step.
    due: usize,
}

impl Ends {
    /// # Safety
    ///
    /// As [`RoundedProduct`] says; the processor has AVX-512 with BF16. The sums of the panel's rows are stored, and stay until
    /// they are finished.
    #[inline(always)]
    pub(super) unsafe fn new<P: TileProduct>(p: &RoundedProduct, panel: usize, sums: *const Sums) -> Self {
        let scales = p.w_scales.wrapping_byte_add(panel * p.panel_stride);
        // SAFETY: scales are readable for whole panels, and the caller's promise is passed on.
        unsafe {
            let w_scales = if P::HAS_SCALES {
                [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.wrapping_add(16))]
            } else {
                [_mm512_setzero_ps(); 2]
            };
            let columns = [Columns::new(p, panel, 0), Columns::new(p, panel, 1)];
            let streams = p.past_caches && p.y_pieces.is_null() && columns.iter().all(Columns::are_lines);
            Self { product: *p, panel, columns, w_scales, sums, streams, row: 0, due: 0 }
        }
    }

    /// Finishes one of so many parts.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub(super) unsafe fn finish_part<P: TileProduct>(&mut self, parts: usize) {
        self.due += self.product.rows.div_ceil(ROWS_AT_ONCE);
        if self.due >= parts {
            let end = self.row + self.due / parts * ROWS_AT_ONCE;
            self.due %= parts;
            // SAFETY: the caller's promise is passed on.
            unsafe { self.finish_until::<P>(end) }
        }
    }

    /// Finishes what is left.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub(super) unsafe fn finish<P: TileProduct>(&mut self) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.finish_until::<P>(self.product.rows) }
    }

    #[inline(always)]
    unsafe fn finish_until<P: TileProduct>(&mut self, end: usize) {
        let end = end.min(self.product.rows);
        if self.row < end {
            // SAFETY: the caller's promise is passed on.
            unsafe { self.finish_rows::<P>(self.row..end) };
            self.row = end;
        }
    }

    /// Turns the sums of some rows of the panel into results.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn finish_rows<P: TileProduct>(&self, rows: Range<usize>) {
        // The kind is a constant in each of the loops.
        macro_rules! rows {
            ($($kind:ident)?) => {
                for first in rows.clone().step_by(ROWS_AT_ONCE) {
                    // Without a second row the first one is written twice.
                    let pair = [first, (first + 1).min(rows.end - 1)];
                    // SAFETY: the caller's promise is passed on.
                    unsafe {
                        let values = self.values::<P>(pair);
                        $(let values = activation(ActivationKind::$kind, values);)?
                        self.store(pair, values);
                    }
                }
            };
        }
        match self.product.ending.activation {
            None => rows!(),
            Some(ActivationKind::GeluErf) => rows!(GeluErf),
            Some(ActivationKind::GeluTanh) => rows!(GeluTanh),
            Some(ActivationKind::GeluSigmoid) => rows!(GeluSigmoid),
            Some(ActivationKind::Relu) => rows!(Relu),
            Some(ActivationKind::Silu) => rows!(Silu),
            Some(ActivationKind::Tanh) => rows!(Tanh),
        }
    }

    /// Sums of two rows, scaled and with the bias.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new); there are such rows.
    #[inline(always)]
    unsafe fn values<P: TileProduct>(&self, rows: [usize; ROWS_AT_ONCE]) -> [F32x16; 2 * ROWS_AT_ONCE] {
        // Rows behind the product's are not initialised.
        let (p, sums) = (&self.product, self.sums);
        // SAFETY: there is a scale for each row, whose sums are stored, and the caller's promise is passed on.
        unsafe {
            let mut values = [F32x16(_mm512_setzero_ps()); 2 * ROWS_AT_ONCE];
            for i in 0..2 * ROWS_AT_ONCE {
                let (r, half) = (rows[i / 2], i % 2);
                let x_scale = if P::HAS_SCALES { (*p.x_rows.add(r)).scale } else { 1.0 };
                let row = (&raw const (*sums).0[r]).cast::<i32>();
                let sums = _mm512_load_si512(row.wrapping_add(16 * half).cast());
                let sums = P::to_floats(sums, x_scale, self.w_scales[half]);
                values[i] = F32x16(self.columns[half].add_bias(sums));
            }
            values
        }
    }

    /// Writes results of two rows.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new); there are such rows.
    #[inline(always)]
    unsafe fn store(&self, rows: [usize; ROWS_AT_ONCE], values: [F32x16; 2 * ROWS_AT_ONCE]) {
        let p = &self.product;
        // SAFETY: the caller's promise is passed on.
        unsafe {
            for i in 0..ROWS_AT_ONCE {
                let [low, high] = [
                    self.columns[0].add_residual(rows[i], values[2 * i].0),
                    self.columns[1].add_residual(rows[i], values[2 * i + 1].0),
                ];
                if self.streams {
                    self.columns[0].stream(rows[i], low);
                    self.columns[1].stream(rows[i], high);
                } else if p.y_pieces.is_null() {
                    self.columns[0].store(rows[i], low);
                    self.columns[1].store(rows[i], high);
                } else {
                    let piece = p.y_pieces.add((self.panel * p.rows + rows[i]) * PIECE_BYTES);
                    let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(piece.cast(), narrow);
                }
            }
        }
    }
}
