//! Products of two rows of eight bytes with two others (`smmla`): a register of inputs is two rows of eight terms, one of
//! weights two columns, one of sums their four products.

#![allow(
    clippy::needless_range_loop,
    reason = "indices that are constants after unrolling keep sums in registers"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::matmul::PANEL_WIDTH;
use super::{dotprod, store};
use crate::cpu::op_table::{PIECE_BYTES, RoundedProduct};

/// Sixteen sums, and the vectors of weights and inputs, fit 32 registers.
pub(super) const ROWS: usize = 4;

/// # Safety
///
/// As [`RoundedProduct`] says; the processor has dot products and matrix products.
pub(super) unsafe fn multiply(p: &RoundedProduct) {
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on; pairs of rows, and the odd one by dot products.
        unsafe {
            match p.rows {
                1 => dotprod::multiply_rows::<1>(p, panel, 0),
                2 => multiply_pairs::<1>(p, panel),
                3 => {
                    multiply_pairs::<1>(p, panel);
                    dotprod::multiply_rows::<1>(p, panel, 2);
                }
                _ => multiply_pairs::<2>(p, panel),
            }
        }
    }
}

/// Adds the products of two rows of inputs and two columns of weights to `sum`.
///
/// # Safety
///
/// The processor has matrix products.
#[inline(always)]
unsafe fn add_products(sum: &mut int32x4_t, x: int8x16_t, w: int8x16_t) {
    // SAFETY: arithmetic only.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {x:v}.16b, {w:v}.16b",
            sum = inout(vreg) *sum,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// The first `PAIRS` pairs of rows.
///
/// # Safety
///
/// As [`RoundedProduct`] says, with `2 * PAIRS <= rows` and `panel < panels`; the processor has matrix products.
unsafe fn multiply_pairs<const PAIRS: usize>(p: &RoundedProduct, panel: usize) {
    let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride).cast::<i32>());
    // SAFETY: `w` and `x` stand at two words below `k / 4`: twice 16 words of the panel, two of each row.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 8]; PAIRS];
        for _ in 0..p.pieces {
            for eight in 0..PIECE_BYTES / 8 {
                let inputs: [int8x16_t; PAIRS] = std::array::from_fn(|pair| {
                    let x = x.add(2 * pair * PIECE_BYTES + 8 * eight);
                    vcombine_s8(vld1_s8(x), vld1_s8(x.add(PIECE_BYTES)))
                });
                for quarter in 0..4 {
                    let first = vld1q_s32(w.add(4 * quarter));
                    let second = vld1q_s32(w.add(PANEL_WIDTH + 4 * quarter));
                    let weights = [
                        vreinterpretq_s8_s32(vzip1q_s32(first, second)),
                        vreinterpretq_s8_s32(vzip2q_s32(first, second)),
                    ];
                    for pair in 0..PAIRS {
                        add_products(&mut sums[pair][2 * quarter], inputs[pair], weights[0]);
                        add_products(&mut sums[pair][2 * quarter + 1], inputs[pair], weights[1]);
                    }
                }
                w = w.wrapping_add(2 * PANEL_WIDTH);
            }
            x = x.wrapping_add(p.rows * PIECE_BYTES);
        }
        let sums = sums;
        for pair in 0..PAIRS {
            for quarter in 0..4 {
                // Two columns of two rows each, to four columns of one.
                let [left, right] = [sums[pair][2 * quarter], sums[pair][2 * quarter + 1]]
                    .map(|sums| vreinterpretq_s64_s32(sums));
                let rows = [vzip1q_s64(left, right), vzip2q_s64(left, right)];
                for (r, sum) in rows.into_iter().enumerate() {
                    store(p, 2 * pair + r, panel, quarter, vreinterpretq_s32_s64(sum));
                }
            }
        }
    }
}
