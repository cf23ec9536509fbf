//! Eight lanes.

use std::arch::x86_64::*;

use crate::cpu::vector::{Arithmetic, Vector};

/// A `ymm` register of `f32`.
#[derive(Clone, Copy)]
pub(super) struct F32x8(__m256);

impl From<__m256> for F32x8 {
    #[inline(always)]
    fn from(register: __m256) -> Self {
        Self(register)
    }
}

impl From<F32x8> for __m256 {
    #[inline(always)]
    fn from(vector: F32x8) -> Self {
        vector.0
    }
}

/// All bits of the first `n` of 8 lanes.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: 8 elements from `8 - n` are inside the array; the processor has AVX.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
}

// SAFETY, for every block below: by the contract of `Arithmetic` and `Vector` the processor has AVX2 and FMA, and pointers are valid for
// the elements that the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Arithmetic for F32x8 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe {
            // The power of two is put together from its exponent.
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))))
        }
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, if_less: Self, otherwise: Self) -> Self {
        Self(unsafe {
            _mm256_blendv_ps(otherwise.0, if_less.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0))
        })
    }
}

// SAFETY, for every block below: as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Vector for F32x8 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(unsafe { if n >= 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask(n)) } })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, n: usize) -> Self {
        let mut bytes = [0u8; 8];
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), n.min(8));
            Self(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> Self {
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_integers(from: *const i8) -> Self {
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe {
            if n >= 8 { _mm256_storeu_ps(to, self.0) } else { _mm256_maskstore_ps(to, mask(n), self.0) }
        }
    }

    #[inline(always)]
    unsafe fn any_equal(self, other: Self) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0)) != 0 }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        unsafe { self.store(lanes.as_mut_ptr()) };
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut lanes = [0.0; 8];
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self; 16]) -> Self {
        unsafe {
            // Horizontal additions stay within blocks of four lanes; the blocks are added last.
            let [a, b, c, d, e, f, g, h, ..] = *vectors;
            let a = _mm256_hadd_ps(_mm256_hadd_ps(a.0, b.0), _mm256_hadd_ps(c.0, d.0));
            let b = _mm256_hadd_ps(_mm256_hadd_ps(e.0, f.0), _mm256_hadd_ps(g.0, h.0));
            Self(_mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)))
        }
    }
}
