//! Scales of 4 neighbouring rows.

use std::arch::aarch64::*;

use super::weight::widen_halves;
use crate::cpu::packed::BlockScales;
use crate::format::ScaleKind;

/// The scales of 4 rows, `at` scales from `first` on.
///
/// # Safety
///
/// 4 scales are readable there.
#[inline(always)]
pub(super) unsafe fn load(scales: &BlockScales, first: *const u8, at: usize) -> float32x4_t {
    // SAFETY: 4 scales are readable.
    unsafe {
        match scales.kind {
            ScaleKind::F16 => widen_halves(vld1_u16(first.add(2 * at).cast())),
            ScaleKind::E8m0 => {
                let codes = vmovl_u16(vget_low_u16(vmovl_u8(load_bytes(first.add(at)))));
                // The exponent of an `f32`, but for the two ends: 0 is subnormal, and 255 is NaN, not infinity.
                let powers = vmaxq_u32(vshlq_n_u32::<23>(codes), vdupq_n_u32(0x0040_0000));
                let nan = vceqq_u32(codes, vdupq_n_u32(255));
                vreinterpretq_f32_u32(vorrq_u32(powers, nan))
            }
            ScaleKind::E4m3 => {
                // By way of halves, see `E4m3` weights.
                let codes = vmovl_s8(vreinterpret_s8_u8(load_bytes(first.add(at))));
                let shifted = vreinterpret_u16_s16(vshl_n_s16::<7>(vget_low_s16(codes)));
                let halves = vand_u16(shifted, vdup_n_u16(0xbfff));
                let nan = vceq_u16(vand_u16(halves, vdup_n_u16(0x3fff)), vdup_n_u16(0x3f80));
                vmulq_n_f32(widen_halves(vorr_u16(halves, nan)), 256.0 * scales.tensor_scale)
            }
            ScaleKind::F32 | ScaleKind::None => vld1q_f32(first.add(4 * at).cast()),
        }
    }
}

/// Four bytes, and four of no interest.
#[inline(always)]
unsafe fn load_bytes(from: *const u8) -> uint8x8_t {
    // SAFETY: four bytes are readable.
    unsafe { vcreate_u8(u64::from(from.cast::<u32>().read_unaligned())) }
}
