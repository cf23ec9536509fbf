//! Sixteen lanes.

use std::arch::x86_64::*;

use crate::cpu::vector::{Arithmetic, Vector};

/// A `zmm` register of `f32`.
#[derive(Clone, Copy)]
pub(in crate::cpu::x86_64) struct F32x16(pub(in crate::cpu::x86_64) __m512);

/// The first `n` of 16 lanes.
#[inline(always)]
pub(in crate::cpu::x86_64) fn mask(n: usize) -> __mmask16 {
    if n >= 16 { 0xffff } else { (1 << n) - 1 }
}

// SAFETY, for every block below: by the contract of `Arithmetic` and `Vector` the processor has AVX-512 F, BW, VL and DQ, and pointers
// are valid for the elements that the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Arithmetic for F32x16 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, if_less: Self, otherwise: Self) -> Self {
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
            Self(_mm512_mask_blend_ps(less, otherwise.0, if_less.0))
        }
    }
}

// SAFETY, for every block below: as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Vector for F32x16 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(mask(n), from) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, n: usize) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask(n), from.cast()))) })
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> Self {
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_integers(from: *const i8) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(n), self.0) }
    }

    #[inline(always)]
    unsafe fn any_equal(self, other: Self) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) != 0 }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    /// Neighbours are added within blocks of four lanes, twice, and then blocks, twice; each round halves the number
    /// of vectors.
    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self; 16]) -> Self {
        unsafe {
            let mut fours = [_mm512_setzero_ps(); 4];
            for (i, four) in fours.iter_mut().enumerate() {
                let first = add_pairs(vectors[4 * i].0, vectors[4 * i + 1].0);
                let second = add_pairs(vectors[4 * i + 2].0, vectors[4 * i + 3].0);
                let (first, second) = (_mm512_castps_pd(first), _mm512_castps_pd(second));
                let (low, high) = (_mm512_unpacklo_pd(first, second), _mm512_unpackhi_pd(first, second));
                *four = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            }
            let [a, b, c, d] = fours;
            Self(add_blocks(add_blocks(a, b), add_blocks(c, d)))
        }
    }
}

/// Lanes 0 + 2 of `a`, then of `b`, then 1 + 3, in each block of four.
#[inline(always)]
unsafe fn add_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller vouches for AVX-512 F.
    unsafe { _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)) }
}

/// Blocks 0 + 1 and 2 + 3 of `a`, then of `b`.
#[inline(always)]
unsafe fn add_blocks(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller vouches for AVX-512 F.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b)) }
}
