//! Inputs in fixed point times weights on a grid of bytes, with VNNI for registers of AVX2.

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use super::scale;
use super::vector::F32x8;
use crate::cpu::op_table::{FixedKernels, FixedProduct, SplitRow};
use crate::cpu::packed::BlockScales;
use crate::cpu::vector::fixed::{self, ByteDots};

/// Twelve sums, a vector of weights and what making it takes fit 16 registers.
const ROWS: usize = 2;
/// Vectors of a panel.
const VECTORS: usize = PANEL_WIDTH / 8;

pub(super) const KERNELS: FixedKernels = FixedKernels { rows: ROWS, multiply, split };

/// # Safety
///
/// As [`FixedProduct`] says; the processor has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn multiply(p: &FixedProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe { fixed::multiply::<UnsignedDots, VECTORS>(p) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn split(row: SplitRow<'_>) {
    fixed::split::<UnsignedDots, VECTORS>(row);
}

/// The first factor, the weights, is unsigned.
#[derive(Clone, Copy)]
struct UnsignedDots;

// SAFETY, for every block below: by the contract of `ByteDots` the processor has the features, and pointers are valid for
// what the method reads.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl ByteDots<VECTORS> for UnsignedDots {
    type Floats = F32x8;
    type Sums = __m256i;
    type Bytes = __m256i;
    /// Where they are: each word is loaded into all lanes.
    type Digits = *const i8;

    const OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn sums(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn widen(sums: __m256i) -> F32x8 {
        unsafe { _mm256_cvtepi32_ps(sums).into() }
    }

    #[inline(always)]
    unsafe fn load(w: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(w.cast()) }
    }

    #[inline(always)]
    unsafe fn integers(codes: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; 16]) -> __m256i {
        unsafe { Self::integers(_mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()))) }
    }

    #[inline(always)]
    unsafe fn look_up<const UPPER: bool>(table: __m256i, codes: __m256i) -> __m256i {
        unsafe {
            let codes = if UPPER { _mm256_srli_epi16::<4>(codes) } else { codes };
            _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)))
        }
    }

    #[inline(always)]
    unsafe fn digits(x: *const i8) -> *const i8 {
        x
    }

    #[inline(always)]
    unsafe fn add<const WORD: usize>(sums: __m256i, weights: __m256i, digits: *const i8) -> __m256i {
        unsafe {
            let word = digits.add(4 * WORD).cast::<i32>().read_unaligned();
            _mm256_dpbusd_avx_epi32(sums, weights, _mm256_set1_epi32(word))
        }
    }

    #[inline(always)]
    unsafe fn scales(scales: &BlockScales, first: *const u8, block: usize) -> [F32x8; VECTORS] {
        unsafe {
            [
                scale::load(scales, first, block * PANEL_WIDTH).into(),
                scale::load(scales, first, block * PANEL_WIDTH + 8).into(),
            ]
        }
    }
}
