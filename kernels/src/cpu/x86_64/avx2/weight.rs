//! Decoding for 16 neighbouring rows, in two registers.

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use crate::cpu::vector::weight::PanelRows;

/// Rows 0 to 7 and 8 to 15 of a panel.
#[derive(Clone, Copy)]
pub(super) struct Rows;

// SAFETY, for every block below: by the contract of `PanelRows` the processor has AVX2, FMA and F16C, and pointers are valid
// for what the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl PanelRows for Rows {
    type Floats = [__m256; 2];
    type Halves = __m256i;
    type Words = [__m256i; 2];
    type Bytes = [__m256i; 2];
    type Table = [__m256; 2];

    const WIDTH: usize = PANEL_WIDTH;

    #[inline(always)]
    unsafe fn floats(w: *const u8) -> [__m256; 2] {
        let w = w.cast::<f32>();
        unsafe { [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))] }
    }

    #[inline(always)]
    unsafe fn halves(w: *const u8) -> [__m256; 2] {
        let w = w.cast::<__m128i>();
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(w)), _mm256_cvtph_ps(_mm_loadu_si128(w.add(1)))] }
    }

    #[inline(always)]
    unsafe fn words(w: *const u8) -> [__m256i; 2] {
        unsafe { [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn bytes(w: *const u8) -> [__m256i; 2] {
        unsafe { Self::words(w) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(w: *const u8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast())) }
    }

    #[inline(always)]
    unsafe fn shift_left<const BITS: i32>(halves: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi16(halves, _mm_cvtsi32_si128(BITS)) }
    }

    #[inline(always)]
    unsafe fn keep(halves: __m256i, mask: u16) -> __m256i {
        unsafe { _mm256_and_si256(halves, _mm256_set1_epi16(mask as i16)) }
    }

    #[inline(always)]
    unsafe fn widen(halves: __m256i) -> [__m256; 2] {
        unsafe {
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    unsafe fn brain<const TERM: usize>([low, high]: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [widen_brain::<TERM>(low), widen_brain::<TERM>(high)] }
    }

    #[inline(always)]
    unsafe fn integer<const TERM: usize>([low, high]: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [convert_byte::<TERM>(low), convert_byte::<TERM>(high)] }
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> [__m256; 2] {
        let values = values.as_ptr();
        unsafe { [_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))] }
    }

    #[inline(always)]
    unsafe fn look_up<const TERM: usize>(table: [__m256; 2], [low, high]: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [look_up::<TERM>(table, low), look_up::<TERM>(table, high)] }
    }

    #[inline(always)]
    unsafe fn multiply([low, high]: [__m256; 2], factor: f32) -> [__m256; 2] {
        unsafe {
            let factor = _mm256_set1_ps(factor);
            [_mm256_mul_ps(low, factor), _mm256_mul_ps(high, factor)]
        }
    }
}

/// The first term is shifted up, the second masked in place.
#[inline(always)]
unsafe fn widen_brain<const TERM: usize>(pair: __m256i) -> __m256 {
    // SAFETY: arithmetic only.
    unsafe {
        _mm256_castsi256_ps(match TERM {
            0 => _mm256_slli_epi32::<16>(pair),
            _ => _mm256_and_si256(pair, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
        })
    }
}

/// Each byte in turn is moved to the top of its word and back, which extends its sign.
#[inline(always)]
unsafe fn convert_byte<const TERM: usize>(word: __m256i) -> __m256 {
    // SAFETY: arithmetic only.
    unsafe {
        let top = match TERM {
            0 => _mm256_slli_epi32::<24>(word),
            1 => _mm256_slli_epi32::<16>(word),
            2 => _mm256_slli_epi32::<8>(word),
            _ => word,
        };
        _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
    }
}

/// The low three bits of a code choose within both registers of values, and its top bit, moved to the sign, between them.
#[inline(always)]
unsafe fn look_up<const TERM: usize>([lower, upper]: [__m256; 2], word: __m256i) -> __m256 {
    // SAFETY: arithmetic only.
    unsafe {
        // The code in the low bits, and its top bit in the sign.
        let (code, sign) = match TERM {
            0 => (word, _mm256_slli_epi32::<28>(word)),
            1 => (_mm256_srli_epi32::<4>(word), _mm256_slli_epi32::<24>(word)),
            2 => (_mm256_srli_epi32::<8>(word), _mm256_slli_epi32::<20>(word)),
            3 => (_mm256_srli_epi32::<12>(word), _mm256_slli_epi32::<16>(word)),
            4 => (_mm256_srli_epi32::<16>(word), _mm256_slli_epi32::<12>(word)),
            5 => (_mm256_srli_epi32::<20>(word), _mm256_slli_epi32::<8>(word)),
            6 => (_mm256_srli_epi32::<24>(word), _mm256_slli_epi32::<4>(word)),
            _ => (_mm256_srli_epi32::<28>(word), word),
        };
        _mm256_blendv_ps(
            _mm256_permutevar8x32_ps(lower, code),
            _mm256_permutevar8x32_ps(upper, code),
            _mm256_castsi256_ps(sign),
        )
    }
}
