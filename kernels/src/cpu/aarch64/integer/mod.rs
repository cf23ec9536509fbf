//! Products of 8-bit integers: with dot products or matrix products where the processor has them.

mod baseline;
mod dotprod;
mod i8mm;

use std::arch::aarch64::*;

use super::vector::F32x4;
use crate::cpu::op_table::{RoundedKernels, RoundedProduct};
use crate::cpu::quantize::quantize;
use crate::cpu::vector::{Arithmetic, Vector};

pub(super) const KERNELS: RoundedKernels = RoundedKernels {
    rows: baseline::ROWS,
    multiply: baseline::multiply,
    multiply_in_turn: None,
    ends: false,
    round: quantize,
};

pub(super) const DOTPROD_KERNELS: RoundedKernels = RoundedKernels {
    rows: dotprod::ROWS,
    multiply: dotprod::multiply,
    multiply_in_turn: None,
    ends: false,
    round: quantize,
};

pub(super) const I8MM_KERNELS: RoundedKernels = RoundedKernels {
    rows: i8mm::ROWS,
    multiply: i8mm::multiply,
    multiply_in_turn: None,
    ends: false,
    round: quantize,
};

/// Scales four finished sums of row `r`, quarter `quarter` of a panel, and writes them to `y`.
///
/// # Safety
///
/// As [`RoundedProduct`] says.
#[inline(always)]
unsafe fn store(p: &RoundedProduct, r: usize, panel: usize, quarter: usize, sum: int32x4_t) {
    let column = panel * super::matmul::PANEL_WIDTH + 4 * quarter;
    let columns = p.cols.saturating_sub(column).min(4);
    if columns == 0 {
        return;
    }
    // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, of which `columns` are left here; scales are
    // readable for whole panels.
    unsafe {
        let scales = p.w_scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(4 * quarter);
        let scale = vmulq_n_f32(vld1q_f32(scales), (*p.x_rows.add(r)).scale);
        let mut y = F32x4::from(vmulq_f32(vcvtq_f32_s32(sum), scale));
        if !p.bias.is_null() {
            y = y.add(F32x4::load_up_to(p.bias.wrapping_add(column), columns));
        }
        y.store_up_to(p.y.wrapping_add(r * p.y_stride + column), columns);
    }
}
