//! A few rows of `x` times one panel of `w`, or one row times several.
//!
//! The sums of up to 6 rows by 16 columns stay in 12 registers; each `k` takes two vectors of weights, one broadcast
//! per row and two fused multiply-adds per row.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use std::arch::x86_64::*;

use super::scale;
use super::vector::F32x8;
use super::weight::Rows;
use crate::cpu::op_table::{PANELS, PanelProduct, RowOrder};
use crate::cpu::packed::Scales;
use crate::cpu::vector::Vector;
use crate::cpu::vector::weight::{Single, Weight, for_terms, with_weight};
use crate::cpu::x86_64::row_order::{InterleavedOrder, Order, ScoresOrder};
use crate::format::Codes;

/// Two vectors.
pub(super) const PANEL_WIDTH: usize = 16;
/// 12 sums, two vectors of weights and a broadcast fit 16 registers.
pub(super) const PANEL_ROWS: usize = 6;
/// Rows whose sums over [`PANELS`] panels fit the registers beside the weights.
pub(super) const FEW_ROWS: usize = 1;

/// How far ahead of the weights in use to fetch, with one panel and with several; as for AVX-512.
const PREFETCH_BYTES: usize = 4096;
const ACROSS_PREFETCH_BYTES: usize = 1024;

/// # Safety
///
/// As [`PanelProduct`] says; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_panel(product: &PanelProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if product.x_order == RowOrder::Scores {
            multiply_rows::<Single, ScoresOrder>(product, Single);
        } else {
            with_weight!(Rows, product.codes, weight => multiply_rows::<_, InterleavedOrder>(product, weight));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<W: Weight<Rows>, X: Order>(p: &PanelProduct, weight: W) {
    // SAFETY: the caller's promise is passed on, with the numbers of rows and panels made constants.
    unsafe {
        match p.rows {
            1 if p.panel_stride > 0 => multiply::<W, X, 1, PANELS>(p, weight),
            1 => multiply::<W, X, 1, 1>(p, weight),
            2 => multiply::<W, X, 2, 1>(p, weight),
            3 => multiply::<W, X, 3, 1>(p, weight),
            4 => multiply::<W, X, 4, 1>(p, weight),
            5 => multiply::<W, X, 5, 1>(p, weight),
            _ => multiply::<W, X, 6, 1>(p, weight),
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS`, `x` in the order `X` and the codes of `W`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<W: Weight<Rows>, X: Order, const ROWS: usize, const PANELS: usize>(
    p: &PanelProduct,
    weight: W,
) {
    let prefetch = if PANELS > 1 { ACROSS_PREFETCH_BYTES } else { PREFETCH_BYTES };
    let (mut x, mut w) = (p.x, p.w);
    let (mut first, mut block) = (0, 0);
    while first < p.k {
        let end = p.block_end(first);
        let units = (end - first).div_ceil(W::TERMS);
        let mut sums = [[[_mm256_setzero_ps(); 2]; PANELS]; ROWS];
        for _ in 0..units {
            // SAFETY: `w` and `x` stand at a unit below `k`: 16 weights of each panel and `ROWS` activations for each term.
            unsafe {
                let mut loaded = [W::load(w); PANELS];
                for panel in 0..PANELS {
                    let w = w.wrapping_add(panel * p.panel_stride);
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(prefetch).cast());
                    if panel > 0 {
                        loaded[panel] = W::load(w);
                    }
                }
                for_terms!(W, TERM => {
                    if PANELS == 1 {
                        let weights = weight.term::<TERM>(loaded[0]);
                        for r in 0..ROWS {
                            let x = _mm256_set1_ps(*x.add(r * X::row_stride()));
                            sums[r][0][0] = _mm256_fmadd_ps(x, weights[0], sums[r][0][0]);
                            sums[r][0][1] = _mm256_fmadd_ps(x, weights[1], sums[r][0][1]);
                        }
                    } else {
                        let x = _mm256_set1_ps(*x);
                        for panel in 0..PANELS {
                            let weights = weight.term::<TERM>(loaded[panel]);
                            sums[0][panel][0] = _mm256_fmadd_ps(x, weights[0], sums[0][panel][0]);
                            sums[0][panel][1] = _mm256_fmadd_ps(x, weights[1], sums[0][panel][1]);
                        }
                    }
                    x = x.wrapping_add(X::k_stride(ROWS));
                });
            }
            w = w.wrapping_add(W::SIZE);
        }
        let is_first = first == 0 && !p.accumulate;
        first = end;
        // A copy, so that the sums themselves, which are never indexed by a variable, stay in registers.
        let sums = sums;
        for panel in 0..PANELS {
            for half in 0..2 {
                // SAFETY: the caller's promise is passed on.
                unsafe { add_block(p, &sums, panel, half, block, is_first, end == p.k) };
            }
        }
        if let Scales::Blocks(scales) = p.scales
            && end.is_multiple_of(scales.block_len)
        {
            block += 1;
        }
    }
}

/// Adds the sums of a block in half of a panel to `y`.
///
/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS`.
#[inline(always)]
unsafe fn add_block<const ROWS: usize, const PANELS: usize>(
    p: &PanelProduct,
    sums: &[[[__m256; 2]; PANELS]; ROWS],
    panel: usize,
    half: usize,
    block: usize,
    is_first: bool,
    is_last: bool,
) {
    let column = panel * PANEL_WIDTH + 8 * half;
    let columns = p.cols.saturating_sub(column).min(8);
    if columns == 0 {
        return;
    }
    // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, of which `columns` are left here; scales are
    // readable for whole panels.
    unsafe {
        let scale = match &p.scales {
            Scales::Rows(scales) if is_last => {
                _mm256_loadu_ps(scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(8 * half))
            }
            Scales::Blocks(scales) => {
                let first = scales.first.wrapping_add(panel * p.panel_stride);
                scale::load(scales, first, block * PANEL_WIDTH + 8 * half)
            }
            _ => _mm256_set1_ps(1.0),
        };
        for r in 0..ROWS {
            let y = p.y.wrapping_add(r * p.y_stride + column);
            let sum = sums[r][panel][half];
            let before = match is_first {
                true => _mm256_setzero_ps(),
                false => F32x8::load_up_to(y, columns).into(),
            };
            let mut sum = match p.scales {
                Scales::None => _mm256_add_ps(sum, before),
                Scales::Rows(_) => _mm256_mul_ps(_mm256_add_ps(sum, before), scale),
                Scales::Blocks(_) => _mm256_fmadd_ps(sum, scale, before),
            };
            if !p.bias.is_null() && is_last {
                let bias = F32x8::load_up_to(p.bias.wrapping_add(column), columns);
                sum = _mm256_add_ps(sum, bias.into());
            }
            F32x8::from(sum).store_up_to(y, columns);
        }
    }
}
