//! Products of 8-bit integers.

use super::matmul::PANEL_WIDTH;
use crate::cpu::op_table::{PIECE_BYTES, RoundedKernels, RoundedProduct};

/// Rows whose sums fit the registers beside the weights.
const ROWS: usize = 2;

pub(super) const KERNELS: RoundedKernels = RoundedKernels {
    rows: ROWS,
    multiply,
    multiply_in_turn: None,
    ends: false,
    round: crate::cpu::quantize::quantize,
};

/// # Safety
///
/// As [`RoundedProduct`] says.
unsafe fn multiply(p: &RoundedProduct) {
    for panel in 0..p.panels {
        let (w, w_scales) =
            (p.w.wrapping_add(panel * p.panel_stride), p.w_scales.wrapping_byte_add(panel * p.panel_stride));
        let columns = panel * PANEL_WIDTH..p.cols.min((panel + 1) * PANEL_WIDTH);
        for r in 0..p.rows {
            let mut sums = [0i32; PANEL_WIDTH];
            for word in 0..p.pieces * PIECE_BYTES / 4 {
                let at = word * 4 / PIECE_BYTES * p.rows * PIECE_BYTES + word * 4 % PIECE_BYTES;
                // SAFETY: four codes of row `r < rows`, and four of each row of the panel, all below `k`.
                let (x, w) = unsafe {
                    let x = p.x.add(at + r * PIECE_BYTES).cast::<[i8; 4]>();
                    let w = w.add(word * 4 * PANEL_WIDTH).cast::<[[i8; 4]; PANEL_WIDTH]>();
                    (x.read_unaligned(), w.read_unaligned())
                };
                for (sum, w) in sums.iter_mut().zip(w) {
                    for (x, w) in x.iter().zip(w) {
                        *sum += i32::from(*x) * i32::from(w);
                    }
                }
            }
            for (j, (column, sum)) in columns.clone().zip(sums).enumerate() {
                // SAFETY: row `r` of `y` has the column, nobody else touches it, and scales and bias have it too.
                unsafe {
                    let y = sum as f32 * ((*p.x_rows.add(r)).scale * *w_scales.add(j));
                    *p.y.add(r * p.y_stride + column) =
                        if p.bias.is_null() { y } else { y + *p.bias.add(column) };
                }
            }
        }
    }
}
