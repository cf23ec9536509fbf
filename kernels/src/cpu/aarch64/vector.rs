//! Four lanes.

use std::arch::aarch64::*;

use super::weight::widen_halves;
use crate::cpu::vector::{Arithmetic, Vector};

/// A NEON register of `f32`.
#[derive(Clone, Copy)]
pub(super) struct F32x4(float32x4_t);

impl From<float32x4_t> for F32x4 {
    #[inline(always)]
    fn from(register: float32x4_t) -> Self {
        Self(register)
    }
}

// SAFETY, for every block below: every 64-bit ARM processor has NEON, and by the contract of `Arithmetic` and `Vector` pointers are valid
// for the elements that the method names.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Arithmetic for F32x4 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        Self(unsafe { vfmaq_f32(summand.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // Not the instruction for maxima: it makes a NaN of a NaN.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { vabsq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { vrndnq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        // The power of two is put together from its exponent.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n.0), vdupq_n_s32(127));
            Self(vmulq_f32(self.0, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))))
        }
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, if_less: Self, otherwise: Self) -> Self {
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, bound.0), if_less.0, otherwise.0) })
    }
}

// SAFETY, for every block below: as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Vector for F32x4 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n.min(4));
            Self(vld1q_f32(lanes.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, n: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = f32::from(unsafe { *from.add(i) });
        }
        Self(unsafe { vld1q_f32(lanes.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> Self {
        Self(widen_halves(unsafe { vld1_u16(from) }))
    }

    #[inline(always)]
    unsafe fn load_integers(from: *const i8) -> Self {
        unsafe {
            let four = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        let mut lanes = [0.0; 4];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), self.0);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n.min(4));
        }
    }

    #[inline(always)]
    unsafe fn any_equal(self, other: Self) -> bool {
        unsafe { vmaxvq_u32(vceqq_f32(self.0, other.0)) != 0 }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self; 16]) -> Self {
        unsafe {
            let (low, high) =
                (vpaddq_f32(vectors[0].0, vectors[1].0), vpaddq_f32(vectors[2].0, vectors[3].0));
            Self(vpaddq_f32(low, high))
        }
    }
}
