//! Inputs in fixed point times weights on a grid of bytes, with dot products of bytes (`sdot`).
//!
//! 64 weights take what makes them bytes and twelve instructions, three for each vector; as floats they take six or more to
//! widen each vector and one to multiply it.

use std::arch::aarch64::*;
use std::arch::asm;

use super::matmul::PANEL_WIDTH;
use super::scale;
use super::vector::F32x4;
use crate::cpu::op_table::{FixedKernels, FixedProduct, SplitRow};
use crate::cpu::packed::BlockScales;
use crate::cpu::vector::fixed::{self, ByteDots};

/// 24 sums, four vectors of digits and four of weights fit 32 registers.
const ROWS: usize = 2;
/// Vectors of a panel.
const VECTORS: usize = PANEL_WIDTH / 4;

pub(super) const KERNELS: FixedKernels = FixedKernels { rows: ROWS, multiply, split };

/// # Safety
///
/// As [`FixedProduct`] says; the processor has dot products.
unsafe fn multiply(p: &FixedProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe { fixed::multiply::<SignedDots, VECTORS>(p) }
}

fn split(row: SplitRow<'_>) {
    fixed::split::<SignedDots, VECTORS>(row);
}

/// Both factors have signs.
#[derive(Clone, Copy)]
struct SignedDots;

/// Adds the dot products of word `$lane` of `$x` with the four words of `$w` to `$sums`.
macro_rules! add_dots {
    ($sums:ident, $w:expr, $x:expr, $lane:literal) => {
        asm!(
            ".arch_extension dotprod",
            concat!("sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
            sums = inout(vreg) $sums,
            w = in(vreg) $w,
            x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

// SAFETY, for every block below: by the contract of `ByteDots` the processor has dot products, and pointers are valid for
// what the method reads.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl ByteDots<VECTORS> for SignedDots {
    type Floats = F32x4;
    type Sums = int32x4_t;
    type Bytes = int8x16_t;
    type Digits = (int8x16_t, int8x8_t);

    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn sums(value: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn widen(sums: int32x4_t) -> F32x4 {
        unsafe { vcvtq_f32_s32(sums).into() }
    }

    #[inline(always)]
    unsafe fn load(w: *const u8) -> int8x16_t {
        unsafe { vld1q_s8(w.cast()) }
    }

    #[inline(always)]
    unsafe fn integers(codes: int8x16_t) -> int8x16_t {
        codes
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; 16]) -> int8x16_t {
        unsafe { vld1q_s8(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn look_up<const UPPER: bool>(table: int8x16_t, codes: int8x16_t) -> int8x16_t {
        unsafe {
            let codes = vreinterpretq_u8_s8(codes);
            let codes = if UPPER { vshrq_n_u8::<4>(codes) } else { vandq_u8(codes, vdupq_n_u8(15)) };
            vqtbl1q_s8(table, codes)
        }
    }

    #[inline(always)]
    unsafe fn digits(x: *const i8) -> (int8x16_t, int8x8_t) {
        unsafe { (vld1q_s8(x), vld1_s8(x.add(16))) }
    }

    #[inline(always)]
    unsafe fn add<const WORD: usize>(
        sums: int32x4_t,
        weights: int8x16_t,
        digits: (int8x16_t, int8x8_t),
    ) -> int32x4_t {
        let (mut sums, (four, two)) = (sums, digits);
        unsafe {
            match WORD {
                0 => add_dots!(sums, weights, four, 0),
                1 => add_dots!(sums, weights, four, 1),
                2 => add_dots!(sums, weights, four, 2),
                3 => add_dots!(sums, weights, four, 3),
                4 => add_dots!(sums, weights, two, 0),
                _ => add_dots!(sums, weights, two, 1),
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn scales(scales: &BlockScales, first: *const u8, block: usize) -> [F32x4; VECTORS] {
        unsafe { scale::load(scales, first, block).map(F32x4::from) }
    }
}
