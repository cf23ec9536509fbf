//! Decoding for 16 neighbouring rows, in four registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::matmul::PANEL_WIDTH;
use crate::cpu::vector::weight::PanelRows;

/// Sixteen numbers.
pub(super) type Floats = [float32x4_t; 4];

/// The rows of a panel.
#[derive(Clone, Copy)]
pub(super) struct Rows;

// SAFETY, for every block below: every 64-bit ARM processor has NEON, and by the contract of `PanelRows` pointers are valid
// for what the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl PanelRows for Rows {
    type Floats = Floats;
    type Halves = [uint16x8_t; 2];
    type Words = [uint32x4_t; 4];
    /// Byte `i` of all rows is in register `i`.
    type Bytes = uint8x16x4_t;
    /// Byte `i` of all values is in register `i`.
    type Table = [uint8x16_t; 4];

    const WIDTH: usize = PANEL_WIDTH;

    #[inline(always)]
    unsafe fn floats(w: *const u8) -> Floats {
        let w = w.cast::<f32>();
        unsafe { [vld1q_f32(w), vld1q_f32(w.add(4)), vld1q_f32(w.add(8)), vld1q_f32(w.add(12))] }
    }

    #[inline(always)]
    unsafe fn halves(w: *const u8) -> Floats {
        let w = w.cast::<u16>();
        unsafe { Self::widen([vld1q_u16(w), vld1q_u16(w.add(8))]) }
    }

    #[inline(always)]
    unsafe fn words(w: *const u8) -> [uint32x4_t; 4] {
        let w = w.cast::<u32>();
        unsafe { [vld1q_u32(w), vld1q_u32(w.add(4)), vld1q_u32(w.add(8)), vld1q_u32(w.add(12))] }
    }

    #[inline(always)]
    unsafe fn bytes(w: *const u8) -> uint8x16x4_t {
        unsafe { vld4q_u8(w) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(w: *const u8) -> [uint16x8_t; 2] {
        unsafe {
            let codes = vld1q_s8(w.cast());
            [
                vreinterpretq_u16_s16(vmovl_s8(vget_low_s8(codes))),
                vreinterpretq_u16_s16(vmovl_s8(vget_high_s8(codes))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn shift_left<const BITS: i32>([low, high]: [uint16x8_t; 2]) -> [uint16x8_t; 2] {
        unsafe { [vshlq_n_u16::<BITS>(low), vshlq_n_u16::<BITS>(high)] }
    }

    #[inline(always)]
    unsafe fn keep([low, high]: [uint16x8_t; 2], mask: u16) -> [uint16x8_t; 2] {
        unsafe { [vandq_u16(low, vdupq_n_u16(mask)), vandq_u16(high, vdupq_n_u16(mask))] }
    }

    #[inline(always)]
    unsafe fn widen([low, high]: [uint16x8_t; 2]) -> Floats {
        widen_16_halves(low, high)
    }

    #[inline(always)]
    unsafe fn brain<const TERM: usize>(words: [uint32x4_t; 4]) -> Floats {
        // The first term is shifted up, the second masked in place.
        words.map(|pairs| unsafe {
            vreinterpretq_f32_u32(match TERM {
                0 => vshlq_n_u32::<16>(pairs),
                _ => vandq_u32(pairs, vdupq_n_u32(0xffff_0000)),
            })
        })
    }

    #[inline(always)]
    unsafe fn integer<const TERM: usize>(bytes: uint8x16x4_t) -> Floats {
        unsafe {
            let bytes = vreinterpretq_s8_u8(match TERM {
                0 => bytes.0,
                1 => bytes.1,
                2 => bytes.2,
                _ => bytes.3,
            });
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> [uint8x16_t; 4] {
        let values = values.map(f32::to_le_bytes);
        let mut bytes = [[0; 16]; 4];
        for (i, value) in values.into_iter().enumerate() {
            for (byte, value) in bytes.iter_mut().zip(value) {
                byte[i] = value;
            }
        }
        bytes.map(|bytes| unsafe { vld1q_u8(bytes.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn look_up<const TERM: usize>(table: [uint8x16_t; 4], bytes: uint8x16x4_t) -> Floats {
        // A byte of 16 values at once, and the four bytes are put together.
        unsafe {
            let pairs = match TERM / 2 {
                0 => bytes.0,
                1 => bytes.1,
                2 => bytes.2,
                _ => bytes.3,
            };
            let codes = match TERM % 2 {
                0 => vandq_u8(pairs, vdupq_n_u8(15)),
                _ => vshrq_n_u8::<4>(pairs),
            };
            let [a, b, c, d] = table.map(|bytes| vqtbl1q_u8(bytes, codes));
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

    #[inline(always)]
    unsafe fn multiply(floats: Floats, factor: f32) -> Floats {
        floats.map(|floats| unsafe { vmulq_n_f32(floats, factor) })
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
pub(super) fn widen_16_halves(low: uint16x8_t, high: uint16x8_t) -> Floats {
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
