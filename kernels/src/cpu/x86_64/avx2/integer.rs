//! Products of 8-bit integers: even and odd bytes, widened to 16 bits, apart.
//!
//! The instruction that multiplies bytes saturates its sums of pairs, and signs have to be moved to one side for it;
//! products of 16 bits need neither and take as many instructions.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use super::vector::F32x8;
use crate::cpu::op_table::{PIECE_BYTES, RoundRow, RoundedKernels, RoundedProduct, RoundedRow};
use crate::cpu::vector::Vector;

/// Eight sums, four vectors of weights and two of inputs fit 16 registers.
const ROWS: usize = 4;
/// How far ahead of the weights in use to fetch; see the products of floats.
const PREFETCH_BYTES: usize = 4096;

pub(super) const KERNELS: RoundedKernels =
    RoundedKernels { rows: ROWS, multiply, multiply_in_turn: None, ends: false, round: quantize };

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize(row: RoundRow<'_>) -> RoundedRow {
    crate::cpu::quantize::quantize(row)
}

/// # Safety
///
/// As [`RoundedProduct`] says; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply(p: &RoundedProduct) {
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
        unsafe {
            match p.rows {
                1 => multiply_rows::<1>(p, panel),
                2 => multiply_rows::<2>(p, panel),
                3 => multiply_rows::<3>(p, panel),
                _ => multiply_rows::<4>(p, panel),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn even_and_odd(words: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words)), _mm256_srai_epi16::<8>(words)]
}

/// # Safety
///
/// As [`RoundedProduct`] says, with `rows == ROWS` and `panel < panels`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<const ROWS: usize>(p: &RoundedProduct, panel: usize) {
    let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride));
    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
    for _ in 0..p.pieces {
        for word in 0..PIECE_BYTES / 4 {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(PREFETCH_BYTES).cast());
            // SAFETY: `w` and `x` stand at a word below `k / 4`: 16 words of the panel, one of each row.
            unsafe {
                let weights = [
                    even_and_odd(_mm256_loadu_si256(w.cast())),
                    even_and_odd(_mm256_loadu_si256(w.add(32).cast())),
                ];
                for r in 0..ROWS {
                    let x = x.add(r * PIECE_BYTES + 4 * word).cast::<i32>().read_unaligned();
                    let x = even_and_odd(_mm256_set1_epi32(x));
                    for half in 0..2 {
                        let even = _mm256_madd_epi16(weights[half][0], x[0]);
                        let odd = _mm256_madd_epi16(weights[half][1], x[1]);
                        sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_add_epi32(even, odd));
                    }
                }
            }
            w = w.wrapping_add(4 * PANEL_WIDTH);
        }
        x = x.wrapping_add(ROWS * PIECE_BYTES);
    }
    // A copy, so that the sums themselves, which are never indexed by a variable, stay in registers.
    let sums = sums;
    let scales = p.w_scales.wrapping_byte_add(panel * p.panel_stride);
    for r in 0..ROWS {
        for half in 0..2 {
            let column = panel * PANEL_WIDTH + 8 * half;
            let columns = p.cols.saturating_sub(column).min(8);
            if columns == 0 {
                continue;
            }
            // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, of which `columns` are left here; scales
            // are readable for whole panels.
            unsafe {
                let x_scale = _mm256_set1_ps((*p.x_rows.add(r)).scale);
                let scale = _mm256_mul_ps(x_scale, _mm256_loadu_ps(scales.wrapping_add(8 * half)));
                let mut y = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), scale);
                if !p.bias.is_null() {
                    let bias = F32x8::load_up_to(p.bias.wrapping_add(column), columns);
                    y = _mm256_add_ps(y, bias.into());
                }
                F32x8::from(y).store_up_to(p.y.wrapping_add(r * p.y_stride + column), columns);
            }
        }
    }
}
