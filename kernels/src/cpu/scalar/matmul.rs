//! A few rows of `x` times one panel of `w`.

use crate::cpu::op_table::{Interleave, K_BLOCK, PanelProduct, RowOrder, SCORES_STRIDE};

/// Two SSE or NEON vectors.
pub(super) const PANEL_WIDTH: usize = 8;
/// Rows whose sums fit the registers beside the weights.
pub(super) const PANEL_ROWS: usize = 4;

/// `k` whose weights are widened at once.
const WIDEN: usize = 64;

/// Rows to columns; see [`Interleave`].
pub(super) fn interleave(args: Interleave<'_>) {
    args.checked_k();
    let Interleave { x, stride, rows, width, packed } = args;
    for (i, packed) in packed.chunks_exact_mut(width).enumerate() {
        for (r, packed) in packed.iter_mut().enumerate() {
            *packed = if r < rows { x[r * stride + i] } else { 0.0 };
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says.
pub(super) unsafe fn multiply_panel(product: &PanelProduct) {
    let p = product;
    let (row_stride, k_stride) = match p.x_order {
        RowOrder::Interleaved => (1, p.rows),
        RowOrder::Scores => (SCORES_STRIDE, 1),
    };
    let mut weights = [0.0; WIDEN * PANEL_WIDTH];
    let mut total = [[0.0; PANEL_WIDTH]; PANEL_ROWS];
    let mut block = total;
    for first in (0..p.k).step_by(WIDEN) {
        let terms = WIDEN.min(p.k - first);
        let element = p.element.size();
        let size = terms * PANEL_WIDTH * element;
        // SAFETY: the panel holds `k * PANEL_WIDTH` weights, and `first + terms <= k`.
        let bytes = unsafe { std::slice::from_raw_parts(p.w.add(first * PANEL_WIDTH * element), size) };
        let weights = &mut weights[..terms * PANEL_WIDTH];
        p.element.format().widen(bytes, weights);
        for (r, sums) in block.iter_mut().enumerate().take(p.rows) {
            for (i, weights) in weights.as_chunks::<PANEL_WIDTH>().0.iter().enumerate() {
                // SAFETY: row `r < rows` of `x` has element `first + i < k`.
                let x = unsafe { *p.x.add(r * row_stride + (first + i) * k_stride) };
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += x * w;
                }
            }
        }
        if (first + terms).is_multiple_of(K_BLOCK) || first + terms == p.k {
            for (total, block) in total.as_flattened_mut().iter_mut().zip(block.as_flattened_mut()) {
                *total += std::mem::take(block);
            }
        }
    }
    for (r, total) in total.iter().enumerate().take(p.rows) {
        for (j, total) in total.iter().enumerate().take(p.cols) {
            // SAFETY: row `r < rows` of `y` has column `j < cols`, and nobody else touches it.
            let y = unsafe { &mut *p.y.add(r * p.y_stride + j) };
            let sum = if p.accumulate { *y + total } else { *total };
            // SAFETY: a bias has `cols` elements.
            *y = if p.bias.is_null() { sum } else { sum + unsafe { *p.bias.add(j) } };
        }
    }
}
