//! Scales of 8 neighbouring rows.

use std::arch::x86_64::*;

use crate::cpu::packed::BlockScales;
use crate::format::ScaleKind;

/// The scales of 8 rows, `at` scales from `first` on.
///
/// # Safety
///
/// 8 scales are readable there; the processor has AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn load(scales: &BlockScales, first: *const u8, at: usize) -> __m256 {
    // SAFETY: 8 scales are readable.
    unsafe {
        match scales.kind {
            ScaleKind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(first.add(2 * at).cast())),
            ScaleKind::E8m0 => {
                let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(first.add(at).cast()));
                // The exponent of an `f32`, but for the two ends: 0 is subnormal, and 255 is NaN, not infinity.
                let powers = _mm256_slli_epi32::<23>(codes);
                let powers = _mm256_max_epu32(powers, _mm256_set1_epi32(0x0040_0000));
                let nan = _mm256_cmpeq_epi32(codes, _mm256_set1_epi32(255));
                _mm256_castsi256_ps(_mm256_or_si256(powers, nan))
            }
            ScaleKind::E4m3 => {
                // By way of halves, see `E4m3` weights.
                let codes = _mm_cvtepi8_epi16(_mm_loadl_epi64(first.add(at).cast()));
                let halves = _mm_and_si128(_mm_slli_epi16::<7>(codes), _mm_set1_epi16(0xbfff_u16 as i16));
                let magnitudes = _mm_and_si128(halves, _mm_set1_epi16(0x3fff));
                let nan = _mm_cmpeq_epi16(magnitudes, _mm_set1_epi16(0x3f80));
                let factor = _mm256_set1_ps(256.0 * scales.tensor_scale);
                _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(halves, nan)), factor)
            }
            ScaleKind::F32 | ScaleKind::None => _mm256_loadu_ps(first.add(4 * at).cast()),
        }
    }
}
