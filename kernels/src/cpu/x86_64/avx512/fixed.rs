//! Inputs in fixed point times weights on a grid of bytes, with VNNI.
//!
//! 64 weights take the instructions that make them bytes and one `vpdpbusd` for each digit of the inputs; as floats they
//! would take four times an extraction, a conversion and a multiply-add.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use super::scale;
use super::vector::mask;
use crate::cpu::grid::GridBytes;
use crate::cpu::op_table::{DIGITS, FIXED_PANELS, FixedKernels, FixedProduct, PIECE_BYTES, SplitRow};
use crate::cpu::packed::Scales;
use crate::cpu::prefetch;
use crate::cpu::unit::MAX_TERMS;
use crate::cpu::vector::fixed::fixed_scale;

/// Added to weights: the first factor of `vpdpbusd` is unsigned.
const OFFSET: i32 = 128;
/// 24 sums, two vectors of weights and what making them takes fit 32 registers.
const ROWS: usize = 4;
/// Bytes of the units of a panel: two vectors of 32-bit words.
const UNITS_BYTES: usize = 4 * PANEL_WIDTH;
/// Units of a panel before the next panel's turn comes.
const SEGMENT_UNITS: usize = 2;
/// How far ahead of the weights in use to fetch, in each panel.
///
/// Measured on two threads with int4 weights in memory, 5632 x 2048, beside reading the same bytes: 92 %; 90 % for 1 KiB;
/// 86 % for 2 KiB in half as many panels that take longer turns.
const PREFETCH_BYTES: usize = 768;
/// The same for the scales of blocks: with 128 terms a block, 44 GB/s instead of 37 from memory.
const SCALE_PREFETCH_BYTES: usize = 256;

pub(super) const KERNELS: FixedKernels = FixedKernels { rows: ROWS, multiply, split };

/// How units become unsigned bytes.
trait Bytes: Copy {
    /// Codes in a byte of a unit.
    const PARTS: usize;

    /// One code of each byte.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F and BW.
    unsafe fn part<const PART: usize>(self, units: __m512i) -> __m512i;
}

/// Two's complement, moved up by 128.
#[derive(Clone, Copy)]
struct Moved;

impl Bytes for Moved {
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn part<const PART: usize>(self, units: __m512i) -> __m512i {
        // SAFETY: arithmetic only.
        unsafe { _mm512_xor_si512(units, _mm512_set1_epi8(-128)) }
    }
}

/// 4-bit codes, looked up in a table of bytes moved up by 128.
#[derive(Clone, Copy)]
struct Table(__m512i);

impl Bytes for Table {
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn part<const PART: usize>(self, units: __m512i) -> __m512i {
        // SAFETY: arithmetic only.
        unsafe {
            let codes = if PART == 0 { units } else { _mm512_srli_epi16::<4>(units) };
            _mm512_shuffle_epi8(self.0, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
        }
    }
}

/// 4-bit codes, looked up in four copies of that table by six bits: the upper two do not matter.
///
/// It takes AVX-512 VBMI, and four instructions less for 256 weights.
#[derive(Clone, Copy)]
struct TableCopies(__m512i);

impl Bytes for TableCopies {
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn part<const PART: usize>(self, units: __m512i) -> __m512i {
        // SAFETY: arithmetic only.
        unsafe {
            let codes = if PART == 0 { units } else { _mm512_srli_epi16::<4>(units) };
            _mm512_permutexvar_epi8(codes, self.0)
        }
    }
}

/// # Safety
///
/// As [`FixedProduct`] says; the processor has AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply(p: &FixedProduct) {
    // SAFETY: the caller's promise is passed on; the processor was asked for VBMI.
    unsafe {
        match &p.grid.bytes {
            GridBytes::Codes => multiply_rows(p, Moved),
            GridBytes::Table(bytes) if is_x86_feature_detected!("avx512vbmi") => multiply_copies(p, bytes),
            GridBytes::Table(bytes) => multiply_rows(p, Table(unsigned_table(bytes))),
        }
    }
}

/// # Safety
///
/// As [`FixedProduct`] says; the processor has VBMI, too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
unsafe fn multiply_copies(p: &FixedProduct, bytes: &[i8; 16]) {
    // SAFETY: the caller's promise is passed on.
    unsafe { multiply_rows(p, TableCopies(unsigned_table(bytes))) }
}

/// Four copies of a table moved up by 128.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn unsigned_table(bytes: &[i8; 16]) -> __m512i {
    // SAFETY: the table has 16 bytes.
    unsafe {
        let bytes = _mm_xor_si128(_mm_loadu_si128(bytes.as_ptr().cast()), _mm_set1_epi8(-128));
        _mm512_broadcast_i32x4(bytes)
    }
}

/// # Safety
///
/// As [`FixedProduct`] says; the processor has what `B` needs. Inlined, so that it is compiled for that.
#[inline(always)]
unsafe fn multiply_rows<B: Bytes>(p: &FixedProduct, bytes: B) {
    // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
    unsafe {
        match p.rows {
            1 => multiply_blocks::<B, 1>(p, bytes),
            2 => multiply_blocks::<B, 2>(p, bytes),
            3 => multiply_blocks::<B, 3>(p, bytes),
            _ => multiply_blocks::<B, 4>(p, bytes),
        }
    }
}

/// Sums of digits in two vectors of columns, row by row.
type Sums<const ROWS: usize> = [[[__m512i; 2]; DIGITS]; ROWS];

/// Goes through all panels a segment at a time, so that what comes from memory comes from several places at once.
///
/// # Safety
///
/// As [`FixedProduct`] says, with `rows == ROWS` and codes that `B` reads; the processor has what `B` needs.
#[inline(always)]
unsafe fn multiply_blocks<B: Bytes, const ROWS: usize>(p: &FixedProduct, bytes: B) {
    let terms = 4 * B::PARTS;
    let panel_bytes = p.k.div_ceil(terms) * UNITS_BYTES;
    let segment = if p.panels > 1 { SEGMENT_UNITS * terms } else { PIECE_BYTES };
    let block_scales = BlockScaleLines::of(p);
    if let Scales::Rows(scales) = p.scales {
        for panel in 0..p.panels {
            let scales = scales.wrapping_byte_add(panel * p.panel_stride);
            prefetch::read(scales);
            prefetch::read(scales.wrapping_add(16));
        }
    }
    // SAFETY: arithmetic only, on a processor that has the instructions.
    let (no_sum, no_total) = unsafe { (_mm512_setzero_si512(), _mm512_setzero_ps()) };
    let mut all_sums = [[[[no_sum; 2]; DIGITS]; ROWS]; FIXED_PANELS];
    let mut totals = [[[no_total; 2]; ROWS]; FIXED_PANELS];
    let (mut term, mut block, mut block_start) = (0, 0, 0);
    while term < p.k {
        let block_end = p.k.min(block_start + p.block_len);
        let stop = block_end.min((term / segment + 1) * segment);
        let x = p.x.wrapping_add(term / PIECE_BYTES * (ROWS * DIGITS * PIECE_BYTES) + term % PIECE_BYTES);
        let units = (stop - term).div_ceil(terms);
        let at = term / terms * UNITS_BYTES;
        // Behind the last units of these panels come the first of the next ones.
        let ahead = match at + PREFETCH_BYTES {
            ahead if ahead < panel_bytes => ahead,
            ahead => p.panels * p.panel_stride + ahead - panel_bytes,
        };
        for panel in 0..p.panels {
            let w = p.w.wrapping_add(panel * p.panel_stride);
            // SAFETY: `x_sums` has the block; pieces hold all terms, and so do panels.
            unsafe {
                let mut sums = all_sums[panel];
                if term == block_start {
                    for r in 0..ROWS {
                        for digit in 0..DIGITS {
                            let sum = *p.x_sums.add((block * ROWS + r) * DIGITS + digit);
                            sums[r][digit] = [_mm512_set1_epi32(sum); 2];
                        }
                    }
                }
                add_units(&mut sums, bytes, w.add(at), x, units, w.wrapping_add(ahead));
                if stop == block_end {
                    if let Some(scales) = &block_scales {
                        scales.fetch(panel, block);
                    }
                    add_block(p, &sums, &mut totals[panel], panel, block);
                } else {
                    all_sums[panel] = sums;
                }
            }
        }
        term = stop;
        if stop == block_end {
            (block, block_start) = (block + 1, block_end);
        }
    }
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on.
        unsafe { store(p, &totals[panel], panel) };
    }
}

/// Where to fetch the scales of blocks: they lie apart from the codes, too few together for the hardware to foresee.
struct BlockScaleLines {
    first: *const u8,
    panel_stride: usize,
    /// Bytes of a block's scales, and of a panel's.
    block_size: usize,
    size: usize,
    /// Bytes from one product's panels to the next one's.
    stride: usize,
}

impl BlockScaleLines {
    fn of(p: &FixedProduct) -> Option<Self> {
        let Scales::Blocks(scales) = p.scales else { return None };
        let block_size = scales.kind.size_bytes() * PANEL_WIDTH;
        let (size, stride) = (p.k.div_ceil(p.block_len) * block_size, p.panels * p.panel_stride);
        Some(Self { first: scales.first, panel_stride: p.panel_stride, block_size, size, stride })
    }

    /// Fetches those of a later block, or of the next panels.
    #[inline(always)]
    fn fetch(&self, panel: usize, block: usize) {
        let at = match block * self.block_size + SCALE_PREFETCH_BYTES {
            at if at < self.size => at,
            at => at - self.size + self.stride,
        };
        // SAFETY: a hint, which does not fault whatever the address.
        unsafe {
            let first = self.first.wrapping_add(panel * self.panel_stride);
            _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(at).cast());
        }
    }
}

/// Adds the products of some units of a panel, fetching as many from `ahead` on.
///
/// # Safety
///
/// `w` and `x` have so many units; the processor has the features.
#[inline(always)]
unsafe fn add_units<B: Bytes, const ROWS: usize>(
    sums: &mut Sums<ROWS>,
    bytes: B,
    mut w: *const u8,
    mut x: *const i8,
    units: usize,
    mut ahead: *const u8,
) {
    for _ in 0..units {
        // SAFETY: the caller's promise; fetching is a hint that does not fault.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64).cast());
            let words = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast())];
            add_part(sums, [bytes.part::<0>(words[0]), bytes.part::<0>(words[1])], x);
            if B::PARTS > 1 {
                add_part(sums, [bytes.part::<1>(words[0]), bytes.part::<1>(words[1])], x.add(4));
            }
        }
        x = x.wrapping_add(4 * B::PARTS);
        w = w.wrapping_add(UNITS_BYTES);
        ahead = ahead.wrapping_add(UNITS_BYTES);
    }
}

/// Adds the sums of a block, times its scales, to the totals of a panel.
///
/// # Safety
///
/// As [`FixedProduct`] says, with `rows == ROWS`.
#[inline(always)]
unsafe fn add_block<const ROWS: usize>(
    p: &FixedProduct,
    sums: &Sums<ROWS>,
    totals: &mut [[__m512; 2]; ROWS],
    panel: usize,
    block: usize,
) {
    for half in 0..2 {
        // SAFETY: scales are readable for whole panels.
        unsafe {
            let scale = match &p.scales {
                Scales::Blocks(scales) => {
                    let first = scales.first.wrapping_add(panel * p.panel_stride);
                    Some(scale::load(scales, first, block * PANEL_WIDTH + 16 * half))
                }
                _ => None,
            };
            for r in 0..ROWS {
                let x_scale = _mm512_set1_ps(*p.x_scales.add(r));
                let (sum, total) = (join(&sums[r], half), &mut totals[r][half]);
                *total = match scale {
                    Some(scale) => _mm512_fmadd_ps(_mm512_mul_ps(sum, x_scale), scale, *total),
                    None => _mm512_fmadd_ps(sum, x_scale, *total),
                };
            }
        }
    }
}

/// Writes finished totals of a panel to `y`.
///
/// # Safety
///
/// As [`FixedProduct`] says, with `rows == ROWS`.
#[inline(always)]
unsafe fn store<const ROWS: usize>(p: &FixedProduct, totals: &[[__m512; 2]; ROWS], panel: usize) {
    for half in 0..2 {
        let column = panel * PANEL_WIDTH + 16 * half;
        let columns = mask(p.cols.saturating_sub(column));
        // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, and the mask covers exactly those; scales are
        // readable for whole panels.
        unsafe {
            for r in 0..ROWS {
                let mut total = totals[r][half];
                if let Scales::Rows(scales) = p.scales {
                    let scales = scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(16 * half);
                    total = _mm512_mul_ps(total, _mm512_loadu_ps(scales));
                }
                if !p.bias.is_null() {
                    let bias = _mm512_maskz_loadu_ps(columns, p.bias.wrapping_add(column));
                    total = _mm512_add_ps(total, bias);
                }
                _mm512_mask_storeu_ps(p.y.wrapping_add(r * p.y_stride + column), columns, total);
            }
        }
    }
}

/// Adds four products for each row of `x` and each of 32 rows of weights.
///
/// # Safety
///
/// A word of each digit of each row is readable; the processor has VNNI.
#[inline(always)]
unsafe fn add_part<const ROWS: usize>(sums: &mut Sums<ROWS>, weights: [__m512i; 2], x: *const i8) {
    for r in 0..ROWS {
        for digit in 0..DIGITS {
            // SAFETY: the caller's promise.
            unsafe {
                let x = x.add((r * DIGITS + digit) * PIECE_BYTES).cast::<i32>().read_unaligned();
                let x = _mm512_set1_epi32(x);
                let sums = &mut sums[r][digit];
                sums[0] = _mm512_dpbusd_epi32(sums[0], weights[0], x);
                sums[1] = _mm512_dpbusd_epi32(sums[1], weights[1], x);
            }
        }
    }
}

/// The sums of the digits, weighted.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn join(sums: &[[__m512i; 2]; DIGITS], half: usize) -> __m512 {
    // SAFETY: arithmetic only.
    unsafe {
        let base = _mm512_set1_ps(256.0);
        let upper =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[0][half]), base, _mm512_cvtepi32_ps(sums[1][half]));
        _mm512_fmadd_ps(upper, base, _mm512_cvtepi32_ps(sums[2][half]))
    }
}

/// Splits a row into digits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn split(row: SplitRow<'_>) {
    let SplitRow { x, digits, piece_stride, sums, sum_stride, block_len, grid, scale } = row;
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let mut largest = _mm512_setzero_si512();
    for first in (0..x.len()).step_by(16) {
        // SAFETY: the mask covers what is left.
        let bits = unsafe { _mm512_maskz_loadu_epi32(mask(x.len() - first), x.as_ptr().add(first).cast()) };
        // The bits of magnitudes are ordered as the magnitudes are.
        largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude));
    }
    let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
    let step = fixed_scale(largest);
    *scale = step * grid.step;
    let inverse = _mm512_set1_ps(1.0 / step);
    let order = match grid.codes_per_byte() {
        1 => _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _ => _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15),
    };
    let half = _mm512_set1_epi32(128);
    for (piece, digits) in digits.chunks_mut(piece_stride).enumerate() {
        let Some(digits) = digits.first_chunk_mut::<{ DIGITS * PIECE_BYTES }>() else { break };
        for part in 0..4 {
            let first = PIECE_BYTES * piece + 16 * part;
            let mask = mask(x.len().saturating_sub(first));
            // SAFETY: the mask covers what is left; 16 bytes of each digit are writable.
            unsafe {
                let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().wrapping_add(first));
                let low = _mm512_maskz_cvtps_epi32(mask, _mm512_mul_ps(x, inverse));
                let middle = _mm512_srai_epi32::<8>(_mm512_add_epi32(low, half));
                let high = _mm512_srai_epi32::<8>(_mm512_add_epi32(middle, half));
                let to = digits.as_mut_ptr().add(16 * part);
                for (digit, values) in [high, middle, low].into_iter().enumerate() {
                    let bytes = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(values), order);
                    _mm_storeu_si128(to.add(digit * PIECE_BYTES).cast(), bytes);
                }
            }
        }
    }
    for (block, sums) in sums.chunks_mut(sum_stride).enumerate() {
        let Some(sums) = sums.first_chunk_mut::<DIGITS>() else { break };
        let mut term = block * block_len;
        let end = x.len().min(term + block_len);
        let mut total = [_mm512_setzero_si512(); DIGITS];
        while term < end {
            let (piece, first) = (term / PIECE_BYTES, term % PIECE_BYTES);
            let len = (end - term).min(PIECE_BYTES - first);
            // Behind the last term digits are zero, so a unit that is cut short, and out of order, may be read whole.
            let bytes = u64::MAX >> (PIECE_BYTES - len.next_multiple_of(MAX_TERMS).min(PIECE_BYTES - first));
            for digit in 0..DIGITS {
                let digits = &digits[piece * piece_stride + digit * PIECE_BYTES + first..];
                // SAFETY: the mask ends with the piece.
                let digits = unsafe { _mm512_maskz_loadu_epi8(bytes, digits.as_ptr()) };
                total[digit] = _mm512_dpbusd_epi32(total[digit], _mm512_set1_epi8(1), digits);
            }
            term += len;
        }
        for digit in 0..DIGITS {
            sums[digit] = _mm512_reduce_add_epi32(total[digit]).wrapping_mul(-OFFSET);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_look_up_give_the_same_bytes() {
        if !super::super::has_vnni() || !is_x86_feature_detected!("avx512vbmi") {
            return;
        }
        // SAFETY: the processor was asked.
        unsafe { compare() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn compare() {
        let values: [i8; 16] = std::array::from_fn(|i| (17 * i as i32 - 128) as i8);
        for first in (0..256).step_by(64) {
            let codes: [u8; 64] = std::array::from_fn(|i| (first + i) as u8);
            // SAFETY: arrays have 64 bytes; the caller has asked the processor.
            let looked_up = unsafe {
                let (codes, table) = (_mm512_loadu_si512(codes.as_ptr().cast()), unsigned_table(&values));
                let one_copy = [Table(table).part::<0>(codes), Table(table).part::<1>(codes)];
                let four_copies = [TableCopies(table).part::<0>(codes), TableCopies(table).part::<1>(codes)];
                [one_copy, four_copies]
                    .map(|parts| parts.map(|part| std::mem::transmute::<_, [u8; 64]>(part)))
            };
            let expected =
                [0, 4].map(|shift| codes.map(|code| values[usize::from(code >> shift & 15)] as u8 ^ 128));
            assert_eq!(looked_up, [expected, expected], "codes from {first}");
        }
    }
}
