//! Decoding for 32 neighbouring rows, in two registers.

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use crate::cpu::vector::weight::PanelRows;

/// Rows 0 to 15 and 16 to 31 of a panel.
#[derive(Clone, Copy)]
pub(super) struct Rows;

// SAFETY, for every block below: by the contract of `PanelRows` the processor has AVX-512 F, BW, VL and DQ, and pointers are
// valid for what the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl PanelRows for Rows {
    type Floats = [__m512; 2];
    type Halves = __m512i;
    type Words = [__m512i; 2];
    type Bytes = [__m512i; 2];
    type Table = __m512;

    const WIDTH: usize = PANEL_WIDTH;

    #[inline(always)]
    unsafe fn floats(w: *const u8) -> [__m512; 2] {
        let w = w.cast::<f32>();
        unsafe { [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))] }
    }

    #[inline(always)]
    unsafe fn halves(w: *const u8) -> [__m512; 2] {
        // The form without exception control, the only one that takes its operand from memory: half the work for
        // the ports that multiply. The conversion is exact, so no rounding mode matters.
        const MODE: i32 = _MM_FROUND_CUR_DIRECTION;
        let w = w.cast::<__m256i>();
        unsafe {
            let (low, high) = (_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1)));
            [_mm512_cvt_roundph_ps::<MODE>(low), _mm512_cvt_roundph_ps::<MODE>(high)]
        }
    }

    #[inline(always)]
    unsafe fn words(w: *const u8) -> [__m512i; 2] {
        unsafe { [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast())] }
    }

    #[inline(always)]
    unsafe fn bytes(w: *const u8) -> [__m512i; 2] {
        unsafe { Self::words(w) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(w: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.cast())) }
    }

    #[inline(always)]
    unsafe fn shift_left<const BITS: i32>(halves: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi16(halves, _mm_cvtsi32_si128(BITS)) }
    }

    #[inline(always)]
    unsafe fn keep(halves: __m512i, mask: u16) -> __m512i {
        unsafe { _mm512_and_si512(halves, _mm512_set1_epi16(mask as i16)) }
    }

    #[inline(always)]
    unsafe fn widen(halves: __m512i) -> [__m512; 2] {
        unsafe {
            let (low, high) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
            [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    unsafe fn brain<const TERM: usize>([low, high]: [__m512i; 2]) -> [__m512; 2] {
        unsafe { [widen_brain::<TERM>(low), widen_brain::<TERM>(high)] }
    }

    #[inline(always)]
    unsafe fn integer<const TERM: usize>([low, high]: [__m512i; 2]) -> [__m512; 2] {
        unsafe { [convert_byte::<TERM>(low), convert_byte::<TERM>(high)] }
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> __m512 {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn look_up<const TERM: usize>(table: __m512, [low, high]: [__m512i; 2]) -> [__m512; 2] {
        unsafe { [look_up::<TERM>(table, low), look_up::<TERM>(table, high)] }
    }

    #[inline(always)]
    unsafe fn multiply([low, high]: [__m512; 2], factor: f32) -> [__m512; 2] {
        unsafe {
            let factor = _mm512_set1_ps(factor);
            [_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor)]
        }
    }
}

/// The first term is shifted up, the second masked in place.
#[inline(always)]
unsafe fn widen_brain<const TERM: usize>(pair: __m512i) -> __m512 {
    // SAFETY: arithmetic only.
    unsafe {
        _mm512_castsi512_ps(match TERM {
            0 => _mm512_slli_epi32::<16>(pair),
            _ => _mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
        })
    }
}

/// Each byte in turn is moved to the top of its word and back, which extends its sign.
#[inline(always)]
unsafe fn convert_byte<const TERM: usize>(word: __m512i) -> __m512 {
    // SAFETY: arithmetic only.
    unsafe {
        let top = match TERM {
            0 => _mm512_slli_epi32::<24>(word),
            1 => _mm512_slli_epi32::<16>(word),
            2 => _mm512_slli_epi32::<8>(word),
            _ => word,
        };
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
    }
}

/// A permutation of a register that holds the 16 values. It uses the low four bits of its index, so shifting is all it
/// takes to take a code out.
#[inline(always)]
unsafe fn look_up<const TERM: usize>(table: __m512, word: __m512i) -> __m512 {
    // SAFETY: arithmetic only.
    unsafe {
        let code = match TERM {
            0 => word,
            1 => _mm512_srli_epi32::<4>(word),
            2 => _mm512_srli_epi32::<8>(word),
            3 => _mm512_srli_epi32::<12>(word),
            4 => _mm512_srli_epi32::<16>(word),
            5 => _mm512_srli_epi32::<20>(word),
            6 => _mm512_srli_epi32::<24>(word),
            _ => _mm512_srli_epi32::<28>(word),
        };
        _mm512_permutexvar_ps(code, table)
    }
}
