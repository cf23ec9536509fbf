//! What every processor has: products of bytes in 16 bits, two of which are added before they are widened.

#![allow(
    clippy::needless_range_loop,
    reason = "indices that are constants after unrolling keep sums in registers"
)]

use std::arch::aarch64::*;

use super::super::matmul::PANEL_WIDTH;
use super::store;
use crate::cpu::op_table::{PIECE_BYTES, RoundedProduct};

/// Sixteen sums, each of half of the terms of four columns, and what multiplying takes, fit 32 registers.
pub(super) const ROWS: usize = 2;

/// # Safety
///
/// As [`RoundedProduct`] says.
pub(super) unsafe fn multiply(p: &RoundedProduct) {
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
        unsafe {
            match p.rows {
                1 => multiply_rows::<1>(p, panel),
                _ => multiply_rows::<2>(p, panel),
            }
        }
    }
}

/// # Safety
///
/// As [`RoundedProduct`] says, with `rows == ROWS` and `panel < panels`.
unsafe fn multiply_rows<const ROWS: usize>(p: &RoundedProduct, panel: usize) {
    let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride).cast::<i8>());
    // SAFETY: `w` and `x` stand at two words below `k / 4`: 16 words of the panel, one of each row, for each of the two.
    // Two products of codes fit 16 bits, since those of inputs reach 127 only.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 8]; ROWS];
        for _ in 0..p.pieces {
            for pair in 0..PIECE_BYTES / 8 {
                let inputs: [[int8x16_t; 2]; ROWS] = std::array::from_fn(|r| {
                    let words = x.add(r * PIECE_BYTES + 8 * pair).cast::<i32>();
                    [0, 1].map(|i| vreinterpretq_s8_s32(vdupq_n_s32(words.add(i).read_unaligned())))
                });
                for quarter in 0..4 {
                    let first = vld1q_s8(w.add(16 * quarter));
                    let second = vld1q_s8(w.add(4 * PANEL_WIDTH + 16 * quarter));
                    for r in 0..ROWS {
                        let [x_first, x_second] = inputs[r];
                        let low = vmull_s8(vget_low_s8(first), vget_low_s8(x_first));
                        let low = vmlal_s8(low, vget_low_s8(second), vget_low_s8(x_second));
                        let high = vmull_high_s8(first, x_first);
                        let high = vmlal_high_s8(high, second, x_second);
                        sums[r][2 * quarter] = vpadalq_s16(sums[r][2 * quarter], low);
                        sums[r][2 * quarter + 1] = vpadalq_s16(sums[r][2 * quarter + 1], high);
                    }
                }
                w = w.wrapping_add(8 * PANEL_WIDTH);
            }
            x = x.wrapping_add(ROWS * PIECE_BYTES);
        }
        let sums = sums;
        for r in 0..ROWS {
            for quarter in 0..4 {
                let sum = vpaddq_s32(sums[r][2 * quarter], sums[r][2 * quarter + 1]);
                store(p, r, panel, quarter, sum);
            }
        }
    }
}
