//! Scales of the 16 rows of a panel.

use std::arch::aarch64::*;

use super::matmul::PANEL_WIDTH;
use super::weight::{Floats, widen_16_halves};
use crate::cpu::packed::BlockScales;
use crate::format::ScaleKind;

/// The scales of block `block`, in the panel whose scales start at `first`.
///
/// # Safety
///
/// The panel has so many blocks.
#[inline(always)]
pub(super) unsafe fn load(scales: &BlockScales, first: *const u8, block: usize) -> Floats {
    // SAFETY: 16 scales are readable.
    unsafe {
        let from = first.add(block * PANEL_WIDTH * scales.kind.size_bytes());
        match scales.kind {
            ScaleKind::F16 => {
                let halves = from.cast::<u16>();
                widen_16_halves(vld1q_u16(halves), vld1q_u16(halves.add(8)))
            }
            ScaleKind::E8m0 => {
                let codes = vld1q_u8(from);
                let (low, high) = (vshll_n_u8::<7>(vget_low_u8(codes)), vshll_n_u8::<7>(vget_high_u8(codes)));
                let (low, high) = (e8m0(low), e8m0(high));
                [
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(low))),
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(high))),
                ]
            }
            ScaleKind::E4m3 => {
                let codes = vld1q_s8(from.cast());
                let (low, high) = (vshll_n_s8::<7>(vget_low_s8(codes)), vshll_n_s8::<7>(vget_high_s8(codes)));
                let factor = 256.0 * scales.tensor_scale;
                widen_16_halves(e4m3(low), e4m3(high)).map(|scales| vmulq_n_f32(scales, factor))
            }
            ScaleKind::F32 | ScaleKind::None => {
                let from = from.cast::<f32>();
                [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
            }
        }
    }
}

/// The upper halves of the `f32` whose exponents were moved in place, which is right but for the two ends: 0 is subnormal,
/// and 255 is NaN, not infinity.
#[inline(always)]
fn e8m0(exponents: uint16x8_t) -> uint16x8_t {
    // SAFETY: arithmetic only.
    unsafe {
        let nan = vceqq_u16(exponents, vdupq_n_u16(0x7f80));
        vorrq_u16(vmaxq_u16(exponents, vdupq_n_u16(0x40)), nan)
    }
}

/// Codes moved in place as halves, by way of which they are widened; see `E4m3` weights.
#[inline(always)]
fn e4m3(shifted: int16x8_t) -> uint16x8_t {
    // SAFETY: arithmetic only.
    unsafe {
        let halves = vandq_u16(vreinterpretq_u16_s16(shifted), vdupq_n_u16(0xbfff));
        let nan = vceqq_u16(vandq_u16(halves, vdupq_n_u16(0x3fff)), vdupq_n_u16(0x3f80));
        vorrq_u16(halves, nan)
    }
}
