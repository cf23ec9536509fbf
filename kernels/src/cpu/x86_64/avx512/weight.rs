//! Codes of 32 neighbouring rows to two vectors of `f32`.

use std::arch::x86_64::*;

/// How units become weights. A unit is decoded term by term, so that few registers are needed at a time.
pub(super) trait Weight: Copy {
    /// Consecutive `k` in a unit.
    const TERMS: usize;
    /// Bytes of the units of 32 rows.
    const SIZE: usize;
    /// The units of 32 rows.
    type Units: Copy;

    /// Loads the units of 32 rows.
    ///
    /// # Safety
    ///
    /// `w` is valid for `SIZE` bytes; the processor has AVX-512 F, BW, VL and DQ.
    unsafe fn load(w: *const u8) -> Self::Units;

    /// Term `TERM` of each: rows 0 to 15 and 16 to 31.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F, BW, VL and DQ.
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m512; 2];
}

/// Calls a generic function with the [`Weight`] of some codes.
macro_rules! with_weight {
    ($codes:expr, $weight:ident => $call:expr) => {
        match $codes {
            Codes::F32 => with_weight!(@ Single, Single, $weight => $call),
            Codes::F16 => with_weight!(@ Half, Half, $weight => $call),
            Codes::Bf16 => with_weight!(@ BrainPair, BrainPair, $weight => $call),
            Codes::Int8 => with_weight!(@ Bytes, Bytes, $weight => $call),
            Codes::E4m3 => with_weight!(@ E4m3, E4m3, $weight => $call),
            Codes::E5m2 => with_weight!(@ E5m2, E5m2, $weight => $call),
            Codes::Table(values) => with_weight!(@ Nibbles, Nibbles::new(values), $weight => $call),
        }
    };
    (@ $type:ident, $value:expr, $weight:ident => $call:expr) => {{
        let $weight: $type = $value;
        $call
    }};
}
pub(super) use with_weight;

/// Repeats statements for each term of a unit, the number of the term being a constant.
macro_rules! for_terms {
    ($weight:ty, $term:ident => $body:block) => {
        for_terms!(@ $weight, $term, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $weight:ty, $term:ident, $body:block, $($number:literal)*) => {
        $(if $number < <$weight>::TERMS {
            const $term: usize = $number;
            $body
        })*
    };
}
pub(super) use for_terms;

// SAFETY, for every block below: by the contract of `Weight` the processor has the features, and the units are readable.

#[derive(Clone, Copy)]
pub(super) struct Single;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Single {
    const TERMS: usize = 1;
    const SIZE: usize = 128;
    type Units = [__m512; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<f32>();
        unsafe { [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))] }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m512; 2] {
        units
    }
}

#[derive(Clone, Copy)]
pub(super) struct Half;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Half {
    const TERMS: usize = 1;
    const SIZE: usize = 64;
    type Units = [__m512; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
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
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m512; 2] {
        units
    }
}

/// Two 32-bit words for 16 rows each.
#[inline(always)]
unsafe fn load_words(w: *const u8) -> [__m512i; 2] {
    // SAFETY: 128 bytes are readable.
    unsafe { [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast())] }
}

/// The upper half of an `f32`: the first term is shifted up, the second masked in place.
#[derive(Clone, Copy)]
pub(super) struct BrainPair;

#[inline(always)]
unsafe fn widen_pair<const TERM: usize>(pair: __m512i) -> __m512 {
    // SAFETY: arithmetic only.
    unsafe {
        _mm512_castsi512_ps(match TERM {
            0 => _mm512_slli_epi32::<16>(pair),
            _ => _mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
        })
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for BrainPair {
    const TERMS: usize = 2;
    const SIZE: usize = 128;
    type Units = [__m512i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m512; 2] {
        unsafe { [widen_pair::<TERM>(low), widen_pair::<TERM>(high)] }
    }
}

/// Integers: each byte in turn is moved to the top of its word and back, which extends its sign.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

#[inline(always)]
unsafe fn widen_byte<const TERM: usize>(word: __m512i) -> __m512 {
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

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Bytes {
    const TERMS: usize = 4;
    const SIZE: usize = 128;
    type Units = [__m512i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m512; 2] {
        unsafe { [widen_byte::<TERM>(low), widen_byte::<TERM>(high)] }
    }
}

/// Halves of 32 rows to `f32`.
#[inline(always)]
unsafe fn widen_halves(halves: __m512i) -> [__m512; 2] {
    // SAFETY: arithmetic only.
    unsafe {
        let (low, high) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
        [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
    }
}

/// By way of halves, whose subnormal numbers are widened at full speed. An E4M3 code read as a half is `2^-8` of its
/// value; the powers are put back into the `f32`.
#[derive(Clone, Copy)]
pub(super) struct E4m3;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E4m3 {
    const TERMS: usize = 1;
    const SIZE: usize = 32;
    type Units = [__m512; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            // Sign, sign, exponent, mantissa; the second sign is cleared.
            let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.cast()));
            let shifted = _mm512_slli_epi16::<7>(codes);
            widen_halves(_mm512_and_si512(shifted, _mm512_set1_epi16(0xbfff_u16 as i16)))
        }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m512; 2] {
        unsafe {
            let factor = _mm512_set1_ps(256.0);
            [_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor)]
        }
    }
}

/// The upper half of an IEEE half.
#[derive(Clone, Copy)]
pub(super) struct E5m2;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E5m2 {
    const TERMS: usize = 1;
    const SIZE: usize = 32;
    type Units = [__m512; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            let codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(w.cast()));
            widen_halves(_mm512_slli_epi16::<8>(codes))
        }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m512; 2] {
        units
    }
}

/// 4-bit codes: a permutation of a register that holds the 16 values looks each one up. It uses the low four bits of
/// its index, so shifting is all it takes to take a code out.
#[derive(Clone, Copy)]
pub(super) struct Nibbles {
    values: __m512,
}

impl Nibbles {
    /// # Safety
    ///
    /// The processor has AVX-512 F.
    #[inline(always)]
    pub(super) unsafe fn new(values: &[f32; 16]) -> Self {
        // SAFETY: 16 values.
        Self { values: unsafe { _mm512_loadu_ps(values.as_ptr()) } }
    }

    #[inline(always)]
    unsafe fn look_up<const TERM: usize>(self, word: __m512i) -> __m512 {
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
            _mm512_permutexvar_ps(code, self.values)
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Nibbles {
    const TERMS: usize = 8;
    const SIZE: usize = 128;
    type Units = [__m512i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m512; 2] {
        unsafe { [self.look_up::<TERM>(low), self.look_up::<TERM>(high)] }
    }
}
