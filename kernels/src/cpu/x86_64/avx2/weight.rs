//! Codes of 16 neighbouring rows to two vectors of `f32`.

use std::arch::x86_64::*;

/// How units become weights. A unit is decoded term by term, so that few registers are needed at a time.
pub(super) trait Weight: Copy {
    /// Consecutive `k` in a unit.
    const TERMS: usize;
    /// Bytes of the units of 16 rows.
    const SIZE: usize;
    /// The units of 16 rows.
    type Units: Copy;

    /// Loads the units of 16 rows.
    ///
    /// # Safety
    ///
    /// `w` is valid for `SIZE` bytes; the processor has AVX2, FMA and F16C.
    unsafe fn load(w: *const u8) -> Self::Units;

    /// Term `TERM` of each: rows 0 to 7 and 8 to 15.
    ///
    /// # Safety
    ///
    /// The processor has AVX2, FMA and F16C.
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m256; 2];
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
    const SIZE: usize = 64;
    type Units = [__m256; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<f32>();
        unsafe { [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))] }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m256; 2] {
        units
    }
}

#[derive(Clone, Copy)]
pub(super) struct Half;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Half {
    const TERMS: usize = 1;
    const SIZE: usize = 32;
    type Units = [__m256; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<__m128i>();
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(w)), _mm256_cvtph_ps(_mm_loadu_si128(w.add(1)))] }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m256; 2] {
        units
    }
}

/// Two 32-bit words for 8 rows each.
#[inline(always)]
unsafe fn load_words(w: *const u8) -> [__m256i; 2] {
    // SAFETY: 64 bytes are readable.
    unsafe { [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())] }
}

/// The upper half of an `f32`: the first term is shifted up, the second masked in place.
#[derive(Clone, Copy)]
pub(super) struct BrainPair;

#[inline(always)]
unsafe fn widen_pair<const TERM: usize>(pair: __m256i) -> __m256 {
    // SAFETY: arithmetic only.
    unsafe {
        _mm256_castsi256_ps(match TERM {
            0 => _mm256_slli_epi32::<16>(pair),
            _ => _mm256_and_si256(pair, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
        })
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for BrainPair {
    const TERMS: usize = 2;
    const SIZE: usize = 64;
    type Units = [__m256i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m256; 2] {
        unsafe { [widen_pair::<TERM>(low), widen_pair::<TERM>(high)] }
    }
}

/// Integers: each byte in turn is moved to the top of its word and back, which extends its sign.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

#[inline(always)]
unsafe fn widen_byte<const TERM: usize>(word: __m256i) -> __m256 {
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

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Bytes {
    const TERMS: usize = 4;
    const SIZE: usize = 64;
    type Units = [__m256i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m256; 2] {
        unsafe { [widen_byte::<TERM>(low), widen_byte::<TERM>(high)] }
    }
}

/// Halves of 16 rows to `f32`.
#[inline(always)]
unsafe fn widen_halves(halves: __m256i) -> [__m256; 2] {
    // SAFETY: arithmetic only.
    unsafe {
        let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
    }
}

/// By way of halves, whose subnormal numbers are widened at full speed. An E4M3 code read as a half is `2^-8` of its
/// value; the powers are put back into the `f32`.
#[derive(Clone, Copy)]
pub(super) struct E4m3;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E4m3 {
    const TERMS: usize = 1;
    const SIZE: usize = 16;
    type Units = [__m256; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            // Sign, sign, exponent, mantissa; the second sign is cleared.
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast()));
            let shifted = _mm256_slli_epi16::<7>(codes);
            widen_halves(_mm256_and_si256(shifted, _mm256_set1_epi16(0xbfff_u16 as i16)))
        }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m256; 2] {
        unsafe {
            let factor = _mm256_set1_ps(256.0);
            [_mm256_mul_ps(low, factor), _mm256_mul_ps(high, factor)]
        }
    }
}

/// The upper half of an IEEE half.
#[derive(Clone, Copy)]
pub(super) struct E5m2;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E5m2 {
    const TERMS: usize = 1;
    const SIZE: usize = 16;
    type Units = [__m256; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(w.cast()));
            widen_halves(_mm256_slli_epi16::<8>(codes))
        }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> [__m256; 2] {
        units
    }
}

/// 4-bit codes: two registers hold the 16 values, the low three bits of a code choose within both, and its top bit,
/// moved to the sign, between them.
#[derive(Clone, Copy)]
pub(super) struct Nibbles {
    lower: __m256,
    upper: __m256,
}

impl Nibbles {
    /// # Safety
    ///
    /// The processor has AVX.
    #[inline(always)]
    pub(super) unsafe fn new(values: &[f32; 16]) -> Self {
        // SAFETY: 16 values.
        unsafe {
            let values = values.as_ptr();
            Self { lower: _mm256_loadu_ps(values), upper: _mm256_loadu_ps(values.add(8)) }
        }
    }

    #[inline(always)]
    unsafe fn look_up<const TERM: usize>(self, word: __m256i) -> __m256 {
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
                _mm256_permutevar8x32_ps(self.lower, code),
                _mm256_permutevar8x32_ps(self.upper, code),
                _mm256_castsi256_ps(sign),
            )
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Nibbles {
    const TERMS: usize = 8;
    const SIZE: usize = 64;
    type Units = [__m256i; 2];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { load_words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, [low, high]: Self::Units) -> [__m256; 2] {
        unsafe { [self.look_up::<TERM>(low), self.look_up::<TERM>(high)] }
    }
}
