//! Dot products of four bytes (`sdot`): a register of weights is four columns of four terms each.

#![allow(
    clippy::needless_range_loop,
    reason = "indices that are constants after unrolling keep sums in registers"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::matmul::PANEL_WIDTH;
use super::store;
use crate::cpu::op_table::{PIECE_BYTES, RoundedProduct};

/// Sixteen sums, four vectors of weights and four of inputs fit 32 registers.
pub(super) const ROWS: usize = 4;

/// # Safety
///
/// As [`RoundedProduct`] says; the processor has dot products.
pub(super) unsafe fn multiply(p: &RoundedProduct) {
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
        unsafe {
            match p.rows {
                1 => multiply_rows::<1>(p, panel, 0),
                2 => multiply_rows::<2>(p, panel, 0),
                3 => multiply_rows::<3>(p, panel, 0),
                _ => multiply_rows::<4>(p, panel, 0),
            }
        }
    }
}

/// Adds the dot products of word `$lane` of `$x` with the four words of `$w` to `$sum`.
macro_rules! add_dots {
    ($sum:expr, $w:expr, $x:expr, $lane:literal) => {
        asm!(
            ".arch_extension dotprod",
            concat!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
            sum = inout(vreg) $sum,
            w = in(vreg) $w,
            x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// Rows `first..first + ROWS` of a block.
///
/// # Safety
///
/// As [`RoundedProduct`] says, with `first + ROWS <= rows` and `panel < panels`; the processor has dot products.
pub(super) unsafe fn multiply_rows<const ROWS: usize>(p: &RoundedProduct, panel: usize, first: usize) {
    let mut x = p.x.wrapping_add(first * PIECE_BYTES);
    let mut w = p.w.wrapping_add(panel * p.panel_stride).cast::<i8>();
    // SAFETY: `w` and `x` stand at four words below `k / 4`: four times 16 words of the panel, four of each row.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
        for _ in 0..p.pieces {
            for sixteen in 0..PIECE_BYTES / 16 {
                let inputs: [int8x16_t; ROWS] =
                    std::array::from_fn(|r| vld1q_s8(x.add(r * PIECE_BYTES + 16 * sixteen)));
                macro_rules! word {
                    ($lane:literal) => {
                        for quarter in 0..4 {
                            let weights = vld1q_s8(w.add($lane * 4 * PANEL_WIDTH + 16 * quarter));
                            for r in 0..ROWS {
                                add_dots!(sums[r][quarter], weights, inputs[r], $lane);
                            }
                        }
                    };
                }
                word!(0);
                word!(1);
                word!(2);
                word!(3);
                w = w.wrapping_add(16 * PANEL_WIDTH);
            }
            x = x.wrapping_add(p.rows * PIECE_BYTES);
        }
        let sums = sums;
        for r in 0..ROWS {
            for quarter in 0..4 {
                store(p, first + r, panel, quarter, sums[r][quarter]);
            }
        }
    }
}
