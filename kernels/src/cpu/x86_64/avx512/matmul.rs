//! A few rows of `x` times one panel of `w`, or a row or two times several.
//!
//! The sums of up to 14 rows by 32 columns stay in 28 registers; each `k` takes two vectors of weights, one broadcast
//! per row and two fused multiply-adds per row, so with many rows the two multipliers are the limit and with few
//! rows the memory is.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use std::arch::x86_64::*;

use super::scale;
use super::vector::mask;
use super::weight::Rows;
use crate::cpu::op_table::{PANELS, PanelProduct, RowOrder, Wanted};
use crate::cpu::packed::Scales;
use crate::cpu::vector::weight::{Single, Weight, for_terms, with_weight};
use crate::cpu::x86_64::row_order::{InterleavedOrder, Order, ScoresOrder};
use crate::format::Codes;

/// Two vectors.
pub(super) const PANEL_WIDTH: usize = 32;
/// 28 sums, two vectors of weights and a broadcast fit 32 registers.
pub(super) const PANEL_ROWS: usize = 14;
/// Rows whose sums over [`PANELS`] panels fit the registers beside the weights.
pub(super) const FEW_ROWS: usize = 2;

/// How far ahead of the weights in use to fetch.
///
/// Measured on weights in L3, against reading the same bytes and doing nothing else: 4 KiB gives 103 % with one row and
/// 92 % with eight (f16), 1 KiB 93 % and 73 %; the non-temporal hint is several times slower.
const PREFETCH_BYTES: usize = 4096;

/// The same for each of [`PANELS`] panels.
const ACROSS_PREFETCH_BYTES: usize = 1024;

/// # Safety
///
/// As [`PanelProduct`] says; the processor has AVX-512 F, BW, VL and DQ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_rows<W: Weight<Rows>, X: Order>(p: &PanelProduct, weight: W) {
    // SAFETY: the caller's promise is passed on, with the numbers of rows and panels made constants.
    unsafe {
        match p.rows {
            1 if p.panel_stride > 0 => multiply::<W, X, 1, PANELS>(p, weight),
            2 if p.panel_stride > 0 => multiply::<W, X, 2, PANELS>(p, weight),
            1 => multiply::<W, X, 1, 1>(p, weight),
            2 => multiply::<W, X, 2, 1>(p, weight),
            3 => multiply::<W, X, 3, 1>(p, weight),
            4 => multiply::<W, X, 4, 1>(p, weight),
            5 => multiply::<W, X, 5, 1>(p, weight),
            6 => multiply::<W, X, 6, 1>(p, weight),
            7 => multiply::<W, X, 7, 1>(p, weight),
            8 => multiply::<W, X, 8, 1>(p, weight),
            9 => multiply::<W, X, 9, 1>(p, weight),
            10 => multiply::<W, X, 10, 1>(p, weight),
            11 => multiply::<W, X, 11, 1>(p, weight),
            12 => multiply::<W, X, 12, 1>(p, weight),
            13 => multiply::<W, X, 13, 1>(p, weight),
            _ => multiply::<W, X, 14, 1>(p, weight),
        }
    }
}

/// Units from one fetch of [`Wanted::Lines`] to the next, for units of one term.
const FETCH_EVERY: usize = 4;

/// Fetches [`Wanted::Lines`] into L2, spread evenly over a product, so that loads of its own do not queue behind them.
struct Later {
    line: *const u8,
    /// Lines per fetch.
    burst: usize,
}

impl Later {
    fn new(p: &PanelProduct, every: usize) -> Self {
        match p.wanted {
            Wanted::Lines(line, count) => Self { line, burst: count.div_ceil(p.k.div_ceil(every)) },
            Wanted::Weights => Self { line: p.w, burst: 0 },
        }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.burst {
            // SAFETY: a hint; it does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.line.cast()) };
            self.line = self.line.wrapping_add(64);
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS`, `x` in the order `X` and the codes of `W`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply<W: Weight<Rows>, X: Order, const ROWS: usize, const PANELS: usize>(
    p: &PanelProduct,
    weight: W,
) {
    let prefetch = if PANELS > 1 { ACROSS_PREFETCH_BYTES } else { PREFETCH_BYTES };
    let every = FETCH_EVERY.max(W::TERMS);
    let (mut x, mut w) = (p.x, p.w);
    let mut later = Later::new(p, every);
    let (mut first, mut block) = (0, 0);
    // Sums of short blocks are scaled and added up in registers where these suffice, not in `y`.
    let scales = match p.scales {
        Scales::Blocks(scales) if ROWS * PANELS <= 4 => Some(scales),
        _ => None,
    };
    let mut totals = [[[_mm512_setzero_ps(); 2]; PANELS]; ROWS];
    if scales.is_some() && p.accumulate {
        for r in 0..ROWS {
            for panel in 0..PANELS {
                for half in 0..2 {
                    let column = panel * PANEL_WIDTH + 16 * half;
                    let y = p.y.wrapping_add(r * p.y_stride + column);
                    // SAFETY: row `r < rows` of `y` has `cols` columns, and the mask covers exactly those.
                    totals[r][panel][half] =
                        unsafe { _mm512_maskz_loadu_ps(mask(p.cols.saturating_sub(column)), y) };
                }
            }
        }
    }
    while first < p.k {
        let end = p.block_end(first);
        let units = (end - first).div_ceil(W::TERMS);
        let mut sums = [[[_mm512_setzero_ps(); 2]; PANELS]; ROWS];
        for unit in 0..units {
            match p.wanted {
                Wanted::Weights => {
                    for panel in 0..PANELS {
                        for line in 0..W::SIZE.div_ceil(64) {
                            let ahead = w.wrapping_add(panel * p.panel_stride + prefetch + line * 64);
                            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                        }
                    }
                }
                Wanted::Lines(..) if unit % (every / W::TERMS) == 0 => later.fetch(),
                Wanted::Lines(..) => {}
            }
            // SAFETY: `w` and `x` stand at a unit below `k`: 32 weights of each panel and `ROWS` activations for each term.
            unsafe {
                let mut loaded = [W::load(w); PANELS];
                for panel in 1..PANELS {
                    loaded[panel] = W::load(w.add(panel * p.panel_stride));
                }
                for_terms!(W, TERM => {
                    let mut weights = [weight.term::<TERM>(loaded[0]); PANELS];
                    for panel in 1..PANELS {
                        weights[panel] = weight.term::<TERM>(loaded[panel]);
                    }
                    for r in 0..ROWS {
                        let x = _mm512_set1_ps(*x.add(r * X::row_stride()));
                        for panel in 0..PANELS {
                            let sums = &mut sums[r][panel];
                            sums[0] = _mm512_fmadd_ps(x, weights[panel][0], sums[0]);
                            sums[1] = _mm512_fmadd_ps(x, weights[panel][1], sums[1]);
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
                match &scales {
                    Some(scales) => {
                        let first = scales.first.wrapping_add(panel * p.panel_stride);
                        // SAFETY: scales are readable for whole panels.
                        let scale = unsafe { scale::load(scales, first, block * PANEL_WIDTH + 16 * half) };
                        for r in 0..ROWS {
                            let total = &mut totals[r][panel][half];
                            *total = _mm512_fmadd_ps(sums[r][panel][half], scale, *total);
                        }
                    }
                    // SAFETY: the caller's promise is passed on.
                    None => unsafe { add_block(p, &sums, panel, half, block, is_first, end == p.k) },
                }
            }
        }
        if let Scales::Blocks(scales) = p.scales
            && end.is_multiple_of(scales.block_len)
        {
            block += 1;
        }
    }
    if scales.is_some() {
        for r in 0..ROWS {
            for panel in 0..PANELS {
                for half in 0..2 {
                    let column = panel * PANEL_WIDTH + 16 * half;
                    let columns = mask(p.cols.saturating_sub(column));
                    let mut total = totals[r][panel][half];
                    // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, and the mask covers exactly those.
                    unsafe {
                        if !p.bias.is_null() {
                            let bias = _mm512_maskz_loadu_ps(columns, p.bias.wrapping_add(column));
                            total = _mm512_add_ps(total, bias);
                        }
                        _mm512_mask_storeu_ps(p.y.wrapping_add(r * p.y_stride + column), columns, total);
                    }
                }
            }
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
    sums: &[[[__m512; 2]; PANELS]; ROWS],
    panel: usize,
    half: usize,
    block: usize,
    is_first: bool,
    is_last: bool,
) {
    let column = panel * PANEL_WIDTH + 16 * half;
    let columns = mask(p.cols.saturating_sub(column));
    // SAFETY: row `r < rows` of `y` and the bias have `cols` columns, and the mask covers exactly those; scales are
    // readable for whole panels.
    unsafe {
        let scale = match &p.scales {
            Scales::None => _mm512_set1_ps(1.0),
            Scales::Rows(scales) => {
                let scales = scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(16 * half);
                if is_last { _mm512_loadu_ps(scales) } else { _mm512_set1_ps(1.0) }
            }
            Scales::Blocks(scales) => {
                let first = scales.first.wrapping_add(panel * p.panel_stride);
                scale::load(scales, first, block * PANEL_WIDTH + 16 * half)
            }
        };
        for r in 0..ROWS {
            let y = p.y.wrapping_add(r * p.y_stride + column);
            let mut sum = sums[r][panel][half];
            let before = if is_first { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(columns, y) };
            sum = match p.scales {
                Scales::None => _mm512_add_ps(sum, before),
                Scales::Rows(_) => _mm512_mul_ps(_mm512_add_ps(sum, before), scale),
                Scales::Blocks(_) => _mm512_fmadd_ps(sum, scale, before),
            };
            if !p.bias.is_null() && is_last {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(columns, p.bias.wrapping_add(column)));
            }
            _mm512_mask_storeu_ps(y, columns, sum);
        }
    }
}
