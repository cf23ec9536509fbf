//! A few rows of `x` times one panel of `w`.
//!
//! The sums of up to 6 rows by 16 columns stay in 24 registers; each `k` takes four vectors of weights, and one
//! activation and four fused multiply-adds per row.

#![allow(
    clippy::needless_range_loop,
    reason = "indices that are constants after unrolling keep sums in registers"
)]

use std::arch::aarch64::*;

use super::scale;
use super::vector::F32x4;
use super::weight::Rows;
use crate::cpu::op_table::{PanelProduct, RowOrder, SCORES_STRIDE};
use crate::cpu::packed::Scales;
use crate::cpu::vector::weight::{Weight, for_terms, with_weight};
use crate::cpu::vector::{Arithmetic, Vector};
use crate::format::Codes;

/// Four vectors.
pub(super) const PANEL_WIDTH: usize = 16;
/// 24 sums, four vectors of weights and an activation fit 32 registers.
pub(super) const PANEL_ROWS: usize = 6;

/// Units to `out [terms, 16]`, without scales.
pub(super) fn widen(codes: Codes, units: &[u8], out: &mut [f32]) {
    // SAFETY: every 64-bit ARM processor has NEON.
    unsafe { with_weight!(Rows, codes, weight => widen_units(weight, units, out)) }
}

fn widen_units<W: Weight<Rows>>(weight: W, units: &[u8], out: &mut [f32]) {
    for (units, out) in units.chunks_exact(W::SIZE).zip(out.chunks_exact_mut(W::TERMS * PANEL_WIDTH)) {
        // SAFETY: `SIZE` bytes, and `TERMS` times 16 floats.
        unsafe {
            let loaded = W::load(units.as_ptr());
            for_terms!(W, TERM => {
                let out = out.as_mut_ptr().add(TERM * PANEL_WIDTH);
                for (i, weights) in weight.term::<TERM>(loaded).into_iter().enumerate() {
                    vst1q_f32(out.add(4 * i), weights);
                }
            });
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says.
pub(super) unsafe fn multiply_panel(product: &PanelProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe { with_weight!(Rows, product.codes, weight => multiply_rows(product, weight)) }
}

unsafe fn multiply_rows<W: Weight<Rows>>(p: &PanelProduct, weight: W) {
    // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
    unsafe {
        match p.rows {
            1 => multiply::<W, 1>(p, weight),
            2 => multiply::<W, 2>(p, weight),
            3 => multiply::<W, 3>(p, weight),
            4 => multiply::<W, 4>(p, weight),
            5 => multiply::<W, 5>(p, weight),
            _ => multiply::<W, 6>(p, weight),
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS` and the codes of `W`.
unsafe fn multiply<W: Weight<Rows>, const ROWS: usize>(p: &PanelProduct, weight: W) {
    let (row_stride, k_stride) = match p.x_order {
        RowOrder::Interleaved => (1, ROWS),
        RowOrder::Scores => (SCORES_STRIDE, 1),
    };
    let (mut x, mut w) = (p.x, p.w);
    let (mut first, mut block) = (0, 0);
    while first < p.k {
        let end = p.block_end(first);
        // SAFETY: registers of zeros.
        let mut sums = [[unsafe { vdupq_n_f32(0.0) }; 4]; ROWS];
        for _ in 0..(end - first).div_ceil(W::TERMS) {
            // SAFETY: `w` and `x` stand at a unit below `k`: 16 weights and `ROWS` activations for each term.
            unsafe {
                let loaded = W::load(w);
                for_terms!(W, TERM => {
                    let weights = weight.term::<TERM>(loaded);
                    for r in 0..ROWS {
                        let x = *x.add(r * row_stride);
                        for i in 0..4 {
                            sums[r][i] = vfmaq_n_f32(sums[r][i], weights[i], x);
                        }
                    }
                    x = x.wrapping_add(k_stride);
                });
            }
            w = w.wrapping_add(W::SIZE);
        }
        let is_first = first == 0 && !p.accumulate;
        first = end;
        // A copy, so that the sums themselves, which are never indexed by a variable, stay in registers.
        let sums = sums;
        // SAFETY: the caller's promise is passed on; scales are readable for whole panels.
        unsafe {
            let scales = match &p.scales {
                Scales::Blocks(scales) => scale::load(scales, scales.first, block),
                Scales::Rows(scales) if end == p.k => {
                    [0, 4, 8, 12].map(|column| vld1q_f32(scales.wrapping_add(column)))
                }
                _ => [vdupq_n_f32(1.0); 4],
            };
            for i in 0..4 {
                add_block(p, &sums, i, scales[i], is_first, end == p.k);
            }
        }
        if let Scales::Blocks(scales) = p.scales
            && end.is_multiple_of(scales.block_len)
        {
            block += 1;
        }
    }
}

/// Adds the sums of a block in a quarter of a panel to `y`.
///
/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS`.
#[inline(always)]
unsafe fn add_block<const ROWS: usize>(
    p: &PanelProduct,
    sums: &[[float32x4_t; 4]; ROWS],
    quarter: usize,
    scale: float32x4_t,
    is_first: bool,
    is_last: bool,
) {
    let column = 4 * quarter;
    let columns = p.cols.saturating_sub(column).min(4);
    if columns == 0 {
        return;
    }
    // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, of which `columns` are left here.
    unsafe {
        let scale = F32x4::from(scale);
        for r in 0..ROWS {
            let y = p.y.wrapping_add(r * p.y_stride + column);
            let sum = F32x4::from(sums[r][quarter]);
            let before = if is_first { F32x4::splat(0.0) } else { F32x4::load_up_to(y, columns) };
            let mut sum = match p.scales {
                Scales::None => sum.add(before),
                Scales::Rows(_) => sum.add(before).mul(scale),
                Scales::Blocks(_) => sum.mul_add(scale, before),
            };
            if !p.bias.is_null() && is_last {
                sum = sum.add(F32x4::load_up_to(p.bias.wrapping_add(column), columns));
            }
            sum.store_up_to(y, columns);
        }
    }
}
