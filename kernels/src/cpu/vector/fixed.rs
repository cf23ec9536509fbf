//! Inputs in fixed point times weights on a grid of bytes; see [`FixedProduct`].
//!
//! Weights stay in registers while all digits of all rows meet them. For each eight terms of a row the digits lie
//! together, [`STEP_BYTES`] of them: three words for the first four terms, largest digits first, then three for the others.

#![allow(
    clippy::needless_range_loop,
    reason = "indices that are constants after unrolling keep sums in registers"
)]

use super::{Arithmetic, Vector};
use crate::cpu::grid::GridBytes;
use crate::cpu::op_table::{DIGITS, FixedProduct, PIECE_BYTES, SplitRow};
use crate::cpu::packed::{BlockScales, Scales};

/// Terms whose digits lie together: a unit of 4-bit codes, two units of bytes.
const STEP: usize = 8;
/// Their digits.
pub(in crate::cpu) const STEP_BYTES: usize = STEP * DIGITS;
/// Bytes of the digits of a piece of a row.
const ROW_PIECE_BYTES: usize = PIECE_BYTES * DIGITS;

/// An instruction that multiplies four bytes of weights by four digits and adds the products to a sum of 32 bits, for a
/// few columns at once; a panel has `VECTORS` times as many.
///
/// # Safety
///
/// As for [`Vector`].
pub(in crate::cpu) trait ByteDots<const VECTORS: usize>: Copy {
    /// A value of each column.
    type Floats: Vector;
    /// A sum of each column.
    type Sums: Copy;
    /// Four bytes of each column.
    type Bytes: Copy;
    /// Digits of eight terms.
    type Digits: Copy;

    /// Added to weights to make them what the instruction takes.
    const OFFSET: i32;

    unsafe fn sums(value: i32) -> Self::Sums;
    unsafe fn widen(sums: Self::Sums) -> Self::Floats;
    unsafe fn load(w: *const u8) -> Self::Bytes;
    /// Integers as the instruction takes them.
    unsafe fn integers(codes: Self::Bytes) -> Self::Bytes;
    /// What [`look_up`](Self::look_up) needs.
    unsafe fn table(values: &[i8; 16]) -> Self::Bytes;
    /// The values of the lower or upper half of each byte, as the instruction takes them.
    unsafe fn look_up<const UPPER: bool>(table: Self::Bytes, codes: Self::Bytes) -> Self::Bytes;
    /// Reads [`STEP_BYTES`].
    unsafe fn digits(x: *const i8) -> Self::Digits;
    /// Adds the products with word `WORD` of the digits.
    unsafe fn add<const WORD: usize>(
        sums: Self::Sums,
        weights: Self::Bytes,
        digits: Self::Digits,
    ) -> Self::Sums;
    /// The scales of block `block`, in the panel whose scales start at `first`.
    unsafe fn scales(scales: &BlockScales, first: *const u8, block: usize) -> [Self::Floats; VECTORS];
}

/// How codes become bytes.
trait Weights<D: ByteDots<VECTORS>, const VECTORS: usize>: Copy {
    /// Bytes of a step's codes, for each column.
    const STEP_BYTES: usize;

    /// Four consecutive terms of some columns: the first four of a step, or (`SECOND`) the others; in 4-bit codes those at
    /// even places, or at odd ones.
    ///
    /// # Safety
    ///
    /// `w` points to the first unit of these columns, of `width` columns in all.
    unsafe fn word<const SECOND: bool>(self, w: *const u8, width: usize) -> D::Bytes;
}

#[derive(Clone, Copy)]
struct Integers;

impl<D: ByteDots<VECTORS>, const VECTORS: usize> Weights<D, VECTORS> for Integers {
    const STEP_BYTES: usize = 8;

    #[inline(always)]
    unsafe fn word<const SECOND: bool>(self, w: *const u8, width: usize) -> D::Bytes {
        // SAFETY: by the caller's promise both units are readable.
        unsafe { D::integers(D::load(w.add(if SECOND { 4 * width } else { 0 }))) }
    }
}

#[derive(Clone, Copy)]
struct Table<D: ByteDots<VECTORS>, const VECTORS: usize>(D::Bytes);

impl<D: ByteDots<VECTORS>, const VECTORS: usize> Weights<D, VECTORS> for Table<D, VECTORS> {
    const STEP_BYTES: usize = 4;

    #[inline(always)]
    unsafe fn word<const SECOND: bool>(self, w: *const u8, _: usize) -> D::Bytes {
        // SAFETY: by the caller's promise the unit is readable.
        unsafe { D::look_up::<SECOND>(self.0, D::load(w)) }
    }
}

/// The product of up to two rows.
///
/// # Safety
///
/// As [`FixedProduct`] says, with digits as [`split`] writes them for `D`; the processor has the features of `D`.
#[inline(always)]
pub(in crate::cpu) unsafe fn multiply<D: ByteDots<VECTORS>, const VECTORS: usize>(p: &FixedProduct) {
    // SAFETY: the caller's promise is passed on, with the kind of codes and the number of rows made constants.
    unsafe {
        for panel in 0..p.panels {
            match (&p.grid.bytes, p.rows) {
                (GridBytes::Codes, 1) => multiply_rows::<D, _, VECTORS, 1>(p, Integers, panel),
                (GridBytes::Codes, _) => multiply_rows::<D, _, VECTORS, 2>(p, Integers, panel),
                (GridBytes::Table(values), 1) => {
                    multiply_rows::<D, _, VECTORS, 1>(p, Table(D::table(values)), panel);
                }
                (GridBytes::Table(values), _) => {
                    multiply_rows::<D, _, VECTORS, 2>(p, Table(D::table(values)), panel);
                }
            }
        }
    }
}

/// # Safety
///
/// As for [`multiply`], with `rows == ROWS`, codes that `W` reads and `panel < panels`.
#[inline(always)]
unsafe fn multiply_rows<
    D: ByteDots<VECTORS>,
    W: Weights<D, VECTORS>,
    const VECTORS: usize,
    const ROWS: usize,
>(
    p: &FixedProduct,
    weights: W,
    panel: usize,
) {
    let lanes = D::Floats::LANES;
    let width = VECTORS * lanes;
    let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride));
    // SAFETY: `x` and `w` stand at a step below `k`: blocks are whole units, and digits and bytes are padded to whole
    // pieces.
    unsafe {
        let mut totals = [[D::Floats::splat(0.0); VECTORS]; ROWS];
        let (mut term, mut block) = (0, 0);
        while term < p.k {
            let block_end = p.k.min(term + p.block_len);
            let mut sums = [[[D::sums(0); VECTORS]; DIGITS]; ROWS];
            if D::OFFSET != 0 {
                for r in 0..ROWS {
                    for digit in 0..DIGITS {
                        let sum = *p.x_sums.add((block * ROWS + r) * DIGITS + digit);
                        sums[r][digit] = [D::sums(sum); VECTORS];
                    }
                }
            }
            while term < block_end {
                // The pieces of a single row follow each other.
                let piece_end = if ROWS == 1 { block_end } else { (term / PIECE_BYTES + 1) * PIECE_BYTES };
                for _ in 0..(block_end.min(piece_end) - term).div_ceil(STEP) {
                    let mut digits = [D::digits(x); ROWS];
                    for r in 1..ROWS {
                        digits[r] = D::digits(x.add(r * ROW_PIECE_BYTES));
                    }
                    for vector in 0..VECTORS {
                        let w = w.add(4 * lanes * vector);
                        let first = weights.word::<false>(w, width);
                        for r in 0..ROWS {
                            let sums = &mut sums[r];
                            sums[0][vector] = D::add::<0>(sums[0][vector], first, digits[r]);
                            sums[1][vector] = D::add::<1>(sums[1][vector], first, digits[r]);
                            sums[2][vector] = D::add::<2>(sums[2][vector], first, digits[r]);
                        }
                        let second = weights.word::<true>(w, width);
                        for r in 0..ROWS {
                            let sums = &mut sums[r];
                            sums[0][vector] = D::add::<3>(sums[0][vector], second, digits[r]);
                            sums[1][vector] = D::add::<4>(sums[1][vector], second, digits[r]);
                            sums[2][vector] = D::add::<5>(sums[2][vector], second, digits[r]);
                        }
                    }
                    x = x.wrapping_add(STEP_BYTES);
                    w = w.wrapping_add(W::STEP_BYTES * width);
                }
                term = block_end.min(piece_end);
                if term == piece_end {
                    // Past the other rows of the piece.
                    x = x.wrapping_add((ROWS - 1) * ROW_PIECE_BYTES);
                }
            }
            // A copy, so that the sums themselves, which are never indexed by a variable, stay in registers.
            let sums = sums;
            add_block::<D, VECTORS, ROWS>(p, &sums, &mut totals, panel, block);
            block += 1;
        }
        store::<D, VECTORS, ROWS>(p, &totals, panel);
    }
}

/// Adds the sums of a block, times its scales, to the totals of a panel.
///
/// # Safety
///
/// As for [`multiply_rows`].
#[inline(always)]
unsafe fn add_block<D: ByteDots<VECTORS>, const VECTORS: usize, const ROWS: usize>(
    p: &FixedProduct,
    sums: &[[[D::Sums; VECTORS]; DIGITS]; ROWS],
    totals: &mut [[D::Floats; VECTORS]; ROWS],
    panel: usize,
    block: usize,
) {
    // SAFETY: scales are readable for whole panels.
    unsafe {
        let base = D::Floats::splat(256.0);
        let scales = match &p.scales {
            Scales::Blocks(scales) => {
                let first = scales.first.wrapping_add(panel * p.panel_stride);
                Some(D::scales(scales, first, block))
            }
            _ => None,
        };
        for vector in 0..VECTORS {
            for r in 0..ROWS {
                let [high, middle, low] = [sums[r][0][vector], sums[r][1][vector], sums[r][2][vector]];
                let sum = D::widen(high).mul_add(base, D::widen(middle)).mul_add(base, D::widen(low));
                let x_scale = D::Floats::splat(*p.x_scales.add(r));
                let total = &mut totals[r][vector];
                *total = match &scales {
                    Some(scales) => sum.mul(x_scale).mul_add(scales[vector], *total),
                    None => sum.mul_add(x_scale, *total),
                };
            }
        }
    }
}

/// Writes finished totals of a panel to `y`.
///
/// # Safety
///
/// As for [`multiply_rows`].
#[inline(always)]
unsafe fn store<D: ByteDots<VECTORS>, const VECTORS: usize, const ROWS: usize>(
    p: &FixedProduct,
    totals: &[[D::Floats; VECTORS]; ROWS],
    panel: usize,
) {
    let lanes = D::Floats::LANES;
    for vector in 0..VECTORS {
        let column = (panel * VECTORS + vector) * lanes;
        let columns = p.cols.saturating_sub(column).min(lanes);
        if columns == 0 {
            return;
        }
        // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, of which `columns` are left here; scales are
        // readable for whole panels.
        unsafe {
            for r in 0..ROWS {
                let mut total = totals[r][vector];
                if let Scales::Rows(scales) = p.scales {
                    let scales =
                        scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(vector * lanes);
                    total = total.mul(D::Floats::load(scales));
                }
                if !p.bias.is_null() {
                    total = total.add(D::Floats::load_up_to(p.bias.wrapping_add(column), columns));
                }
                total.store_up_to(p.y.wrapping_add(r * p.y_stride + column), columns);
            }
        }
    }
}

/// Splits a row into digits.
#[inline(always)]
pub(in crate::cpu) fn split<D: ByteDots<VECTORS>, const VECTORS: usize>(row: SplitRow<'_>) {
    let SplitRow { x, digits, piece_stride, sums, sum_stride, block_len, grid, scale } = row;
    // The bits of magnitudes are ordered as the magnitudes are.
    let largest = x.iter().fold(0, |largest, x| x.abs().to_bits().max(largest));
    let step = fixed_scale(f32::from_bits(largest));
    *scale = step * grid.step;
    if step.is_nan() {
        return;
    }
    // A power of two, and so is what it is the inverse of.
    let inverse = 1.0 / step;
    // Where a byte of weights holds two codes they are at even and at odd places.
    let order = match grid.codes_per_byte() {
        1 => [0, 1, 2, 3, 4, 5, 6, 7],
        _ => [0, 2, 4, 6, 1, 3, 5, 7],
    };
    for sums in sums.chunks_mut(sum_stride) {
        sums[..DIGITS].fill(0);
    }
    for (piece, digits) in digits.chunks_mut(piece_stride).enumerate() {
        let Some(digits) = digits.first_chunk_mut::<ROW_PIECE_BYTES>() else { break };
        for (i, digits) in digits.as_chunks_mut::<STEP_BYTES>().0.iter_mut().enumerate() {
            let first = PIECE_BYTES * piece + STEP * i;
            let x = x.get(first..).unwrap_or_default();
            let split = match x.first_chunk::<STEP>() {
                Some(x) => split_step(x, inverse, order, digits),
                None => {
                    let mut padded = [0.0; STEP];
                    padded[..x.len()].copy_from_slice(x);
                    split_step(&padded, inverse, order, digits)
                }
            };
            if D::OFFSET != 0
                && let Some(sums) = sums.get_mut(first / block_len * sum_stride..)
                && let Some(sums) = sums.first_chunk_mut::<DIGITS>()
            {
                for digit in 0..DIGITS {
                    sums[digit] -= D::OFFSET * split[digit];
                }
            }
        }
    }
}

/// Splits eight terms; the sums of their digits.
#[inline(always)]
fn split_step(
    x: &[f32; STEP],
    inverse: f32,
    order: [usize; STEP],
    to: &mut [i8; STEP_BYTES],
) -> [i32; DIGITS] {
    let mut sums = [0; DIGITS];
    for place in 0..STEP {
        let low = (x[order[place]] * inverse).round_ties_even() as i32;
        let middle = (low + 128) >> 8;
        let high = (middle + 128) >> 8;
        for (digit, value) in [high, middle, low].into_iter().enumerate() {
            let value = value as i8;
            to[place / 4 * 4 * DIGITS + 4 * digit + place % 4] = value;
            sums[digit] += i32::from(value);
        }
    }
    sums
}

/// The smallest power of two of which `largest` is at most `127 * 65536` times, and which is a normal number; NaN when
/// it is infinite or NaN.
pub(in crate::cpu) fn fixed_scale(largest: f32) -> f32 {
    const MANTISSA: u32 = (1 << 23) - 1;
    if !largest.is_finite() {
        return f32::NAN;
    }
    let quotient = (largest / (127.0 * 65536.0)).max(f32::MIN_POSITIVE);
    f32::from_bits((quotient.to_bits() + MANTISSA) & !MANTISSA)
}
