//! Scales of 16 neighbouring rows.

use std::arch::x86_64::*;

use crate::cpu::packed::BlockScales;
use crate::format::ScaleKind;

/// The scales of 16 rows, `at` scales from the first one on.
///
/// # Safety
///
/// 16 scales are readable there; the processor has AVX-512 F, BW, VL and DQ.
#[inline(always)]
pub(super) unsafe fn load(scales: &BlockScales, first: *const u8, at: usize) -> __m512 {
    // SAFETY: 16 scales are readable.
    unsafe {
        match scales.kind {
            ScaleKind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(first.add(2 * at).cast())),
            ScaleKind::E8m0 => {
                let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(first.add(at).cast()));
                // The exponent of an `f32`, but for the two ends: 0 is subnormal, and 255 is NaN, not infinity.
                let powers = _mm512_slli_epi32::<23>(codes);
                let powers = _mm512_max_epu32(powers, _mm512_set1_epi32(0x0040_0000));
                let nan = _mm512_cmpeq_epi32_mask(codes, _mm512_set1_epi32(255));
                _mm512_castsi512_ps(_mm512_mask_mov_epi32(powers, nan, _mm512_set1_epi32(0x7fc0_0000)))
            }
            ScaleKind::E4m3 => {
                // By way of halves, see `E4m3` weights.
                let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(first.add(at).cast()));
                let halves =
                    _mm256_and_si256(_mm256_slli_epi16::<7>(codes), _mm256_set1_epi16(0xbfff_u16 as i16));
                let nan = _mm256_cmpeq_epi16_mask(halves, _mm256_set1_epi16(0x3f80))
                    | _mm256_cmpeq_epi16_mask(halves, _mm256_set1_epi16(0xbf80_u16 as i16));
                let halves = _mm256_mask_mov_epi16(halves, nan, _mm256_set1_epi16(0x7e00));
                _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0 * scales.tensor_scale))
            }
            ScaleKind::F32 | ScaleKind::None => _mm512_loadu_ps(first.add(4 * at).cast()),
        }
    }
}
