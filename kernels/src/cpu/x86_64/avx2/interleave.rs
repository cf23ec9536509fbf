//! Transposition of a few rows, 8 columns at a time.

use std::arch::x86_64::*;

use super::vector::F32x8;
use crate::cpu::op_table::Interleave;
use crate::cpu::vector::Vector;

/// Rows to columns; see [`Interleave`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn interleave(args: Interleave<'_>) {
    let k = args.checked_k();
    let Interleave { x, stride, rows, width, packed } = args;
    for group in (0..width).step_by(8) {
        let lanes = (width - group).min(8);
        for first in (0..k).step_by(8) {
            let columns = (k - first).min(8);
            // Every loop over the tile has 8 rounds, so that the tile stays in registers.
            let mut tile = [_mm256_setzero_ps(); 8];
            for (r, row) in tile.iter_mut().enumerate() {
                if group + r < rows {
                    let from = (group + r) * stride + first;
                    // SAFETY: columns `first..first + columns` of a row below `rows` lie inside `x` (`checked_k`).
                    *row = unsafe { F32x8::load_up_to(x.as_ptr().add(from), columns) }.into();
                }
            }
            let tile = transpose(tile);
            for (i, column) in tile.into_iter().enumerate() {
                if i < columns {
                    let to = (first + i) * width + group;
                    // SAFETY: `first + i < k`, so `packed` holds `width` elements from there, `lanes` from `group` on.
                    unsafe { F32x8::from(column).store_up_to(packed.as_mut_ptr().add(to), lanes) };
                }
            }
        }
    }
}

/// Rows to columns, in three rounds of exchanges: single lanes, pairs, and halves.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    let mut t = rows;
    for group in 0..2 {
        let [a, b, c, d] = [rows[4 * group], rows[4 * group + 1], rows[4 * group + 2], rows[4 * group + 3]];
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        // `t[4 * group + i]` holds column `i` of the group's four rows in its lower half, column `4 + i` in its upper.
        t[4 * group] = _mm256_shuffle_ps::<0x44>(ab_low, cd_low);
        t[4 * group + 1] = _mm256_shuffle_ps::<0xee>(ab_low, cd_low);
        t[4 * group + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
        t[4 * group + 3] = _mm256_shuffle_ps::<0xee>(ab_high, cd_high);
    }
    let mut columns = t;
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(t[i], t[4 + i]);
        columns[4 + i] = _mm256_permute2f128_ps::<0x31>(t[i], t[4 + i]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::is_available;
    use super::*;

    #[test]
    fn interleaves_every_count_of_rows() {
        if !is_available() {
            return;
        }
        let x: Vec<f32> = (0..16 * 50).map(|i| i as f32).collect();
        for (rows, width) in (1..=16).flat_map(|rows| [(rows, rows), (rows, 16)]) {
            for k in [1, 7, 8, 9, 23] {
                let mut packed = vec![-1.0; k * width];
                // SAFETY: the features are available.
                unsafe { interleave(Interleave { x: &x, stride: 50, rows, width, packed: &mut packed }) };
                for (i, got) in packed.iter().enumerate() {
                    let (r, i) = (i % width, i / width);
                    let expected = if r < rows { x[r * 50 + i] } else { 0.0 };
                    assert_eq!(*got, expected, "rows={rows} width={width} k={k} r={r} i={i}");
                }
            }
        }
    }
}
