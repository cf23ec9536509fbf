//! Codes of 16 neighbouring rows to four vectors of `f32`.

use std::arch::aarch64::*;
use std::arch::asm;

/// Sixteen weights.
pub(super) type Weights = [float32x4_t; 4];

/// How units become weights, term by term.
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
    /// `w` is valid for `SIZE` bytes.
    unsafe fn load(w: *const u8) -> Self::Units;

    /// Term `TERM` of each.
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights;
}

/// Calls a generic function with the [`Weight`] of some codes.
macro_rules! with_weight {
    ($codes:expr, $weight:ident => $call:expr) => {
        match $codes {
            Codes::F32 => with_weight!(@ Single, $weight => $call),
            Codes::F16 => with_weight!(@ Half, $weight => $call),
            Codes::Bf16 => with_weight!(@ BrainPair, $weight => $call),
            Codes::Int8 => with_weight!(@ Bytes, $weight => $call),
            Codes::E4m3 => with_weight!(@ E4m3, $weight => $call),
            Codes::E5m2 => with_weight!(@ E5m2, $weight => $call),
            Codes::Table(values) => {
                let $weight = Nibbles::new(values);
                $call
            }
        }
    };
    (@ $value:expr, $weight:ident => $call:expr) => {{
        let $weight = $value;
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

// SAFETY, for every block below: every 64-bit ARM processor has NEON, and by the contract of `Weight` the units are
// readable.

#[derive(Clone, Copy)]
pub(super) struct Single;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Single {
    const TERMS: usize = 1;
    const SIZE: usize = 64;
    type Units = Weights;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<f32>();
        unsafe { [vld1q_f32(w), vld1q_f32(w.add(4)), vld1q_f32(w.add(8)), vld1q_f32(w.add(12))] }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        units
    }
}

/// Halves to `f32`: part of the baseline, unlike arithmetic on halves.
#[inline(always)]
pub(super) fn widen_halves(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: arithmetic only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves, options(pure, nomem, nostack));
    }
    wide
}

/// Sixteen halves.
#[inline(always)]
pub(super) fn widen_16_halves(low: uint16x8_t, high: uint16x8_t) -> Weights {
    // SAFETY: arithmetic only.
    unsafe {
        [
            widen_halves(vget_low_u16(low)),
            widen_halves(vget_high_u16(low)),
            widen_halves(vget_low_u16(high)),
            widen_halves(vget_high_u16(high)),
        ]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Half;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Half {
    const TERMS: usize = 1;
    const SIZE: usize = 32;
    type Units = Weights;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<u16>();
        unsafe { widen_16_halves(vld1q_u16(w), vld1q_u16(w.add(8))) }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        units
    }
}

/// The upper half of an `f32`: the first term is shifted up, the second masked in place.
#[derive(Clone, Copy)]
pub(super) struct BrainPair;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for BrainPair {
    const TERMS: usize = 2;
    const SIZE: usize = 64;
    type Units = [uint32x4_t; 4];

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        let w = w.cast::<u32>();
        unsafe { [vld1q_u32(w), vld1q_u32(w.add(4)), vld1q_u32(w.add(8)), vld1q_u32(w.add(12))] }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        units.map(|pairs| unsafe {
            vreinterpretq_f32_u32(match TERM {
                0 => vshlq_n_u32::<16>(pairs),
                _ => vandq_u32(pairs, vdupq_n_u32(0xffff_0000)),
            })
        })
    }
}

/// Integers. The load takes the words apart: byte `i` of all of them is in register `i`.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Bytes {
    const TERMS: usize = 4;
    const SIZE: usize = 64;
    type Units = int8x16x4_t;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { vld4q_s8(w.cast()) }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        unsafe {
            let bytes = match TERM {
                0 => units.0,
                1 => units.1,
                2 => units.2,
                _ => units.3,
            };
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
            ]
        }
    }
}

/// By way of halves. An E4M3 code read as a half is `2^-8` of its value; the powers are put back into the `f32`.
#[derive(Clone, Copy)]
pub(super) struct E4m3;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E4m3 {
    const TERMS: usize = 1;
    const SIZE: usize = 16;
    type Units = Weights;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            let codes = vld1q_s8(w.cast());
            // Sign, sign, exponent, mantissa; the second sign is cleared.
            let halves = |codes| {
                let shifted = vreinterpretq_u16_s16(vshlq_n_s16::<7>(vmovl_s8(codes)));
                vandq_u16(shifted, vdupq_n_u16(0xbfff))
            };
            widen_16_halves(halves(vget_low_s8(codes)), halves(vget_high_s8(codes)))
        }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        units.map(|weights| unsafe { vmulq_n_f32(weights, 256.0) })
    }
}

/// The upper half of an IEEE half.
#[derive(Clone, Copy)]
pub(super) struct E5m2;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for E5m2 {
    const TERMS: usize = 1;
    const SIZE: usize = 16;
    type Units = Weights;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe {
            let codes = vld1q_u8(w);
            let (low, high) = (vshll_n_u8::<8>(vget_low_u8(codes)), vshll_n_u8::<8>(vget_high_u8(codes)));
            widen_16_halves(low, high)
        }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        units
    }
}

/// 4-bit codes. Byte `i` of all 16 values is in register `i`, so a permutation looks up a byte of 16 weights at once, and
/// the four bytes are put together.
#[derive(Clone, Copy)]
pub(super) struct Nibbles {
    bytes: [uint8x16_t; 4],
}

impl Nibbles {
    #[inline(always)]
    pub(super) fn new(values: &[f32; 16]) -> Self {
        let values = values.map(f32::to_le_bytes);
        let mut bytes = [[0; 16]; 4];
        for (i, value) in values.into_iter().enumerate() {
            for (byte, value) in bytes.iter_mut().zip(value) {
                byte[i] = value;
            }
        }
        // SAFETY: 16 bytes each.
        Self { bytes: bytes.map(|bytes| unsafe { vld1q_u8(bytes.as_ptr()) }) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Weight for Nibbles {
    const TERMS: usize = 8;
    const SIZE: usize = 64;
    type Units = uint8x16x4_t;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { vld4q_u8(w) }
    }

    #[inline(always)]
    fn term<const TERM: usize>(self, units: Self::Units) -> Weights {
        unsafe {
            let pairs = match TERM / 2 {
                0 => units.0,
                1 => units.1,
                2 => units.2,
                _ => units.3,
            };
            let codes = match TERM % 2 {
                0 => vandq_u8(pairs, vdupq_n_u8(15)),
                _ => vshrq_n_u8::<4>(pairs),
            };
            let [a, b, c, d] = self.bytes.map(|bytes| vqtbl1q_u8(bytes, codes));
            let halves =
                |a, b| (vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b)));
            let ((low_ab, high_ab), (low_cd, high_cd)) = (halves(a, b), halves(c, d));
            [
                vreinterpretq_f32_u16(vzip1q_u16(low_ab, low_cd)),
                vreinterpretq_f32_u16(vzip2q_u16(low_ab, low_cd)),
                vreinterpretq_f32_u16(vzip1q_u16(high_ab, high_cd)),
                vreinterpretq_f32_u16(vzip2q_u16(high_ab, high_cd)),
            ]
        }
    }
}
