//! Transposition of a few rows of `x`, 16 columns at a time.

use std::arch::x86_64::*;

use super::vector::mask;
use crate::cpu::op_table::Interleave;

/// Rows to columns; see [`Interleave`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn interleave(args: Interleave<'_>) {
    let k = args.checked_k();
    let Interleave { x, stride, rows, width, packed } = args;
    for group in (0..width).step_by(16) {
        let lanes = mask(width - group);
        for first in (0..k).step_by(16) {
            let columns = (k - first).min(16);
            // Every loop over the tile has 16 rounds, so that the tile stays in registers.
            let mut tile = [_mm512_setzero_ps(); 16];
            for (r, row) in tile.iter_mut().enumerate() {
                let exists = group + r < rows;
                let from = (group + r).min(rows - 1) * stride + first;
                // The row that most likely comes next; an address alone, it need not exist.
                let next = x.as_ptr().wrapping_add(from).wrapping_add(16 * stride);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
                // SAFETY: columns `first..first + columns` of a row below `rows` lie inside `x` (`checked_k`); the mask
                // covers those, or nothing.
                *row = unsafe {
                    _mm512_maskz_loadu_ps(mask(if exists { columns } else { 0 }), x.as_ptr().add(from))
                };
            }
            let tile = transpose(tile);
            for (i, column) in tile.into_iter().enumerate() {
                if i < columns {
                    let to = (first + i) * width + group;
                    // SAFETY: `first + i < k`, so `packed` holds `width` elements from there, of which the mask covers
                    // those from `group` on.
                    unsafe { _mm512_mask_storeu_ps(packed.as_mut_ptr().add(to), lanes, column) };
                }
            }
        }
    }
}

/// Rows to columns, in four rounds of exchanges: pairs, fours, and twice blocks of four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let mut t = [_mm512_setzero_ps(); 16];
    for group in 0..4 {
        let [a, b, c, d] = [rows[4 * group], rows[4 * group + 1], rows[4 * group + 2], rows[4 * group + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        // `t[4 * group + i]` holds column `4 * block + i` of the group's four rows in its block `block`.
        (t[4 * group], t[4 * group + 1]) = exchange_pairs(ab_low, cd_low);
        (t[4 * group + 2], t[4 * group + 3]) = exchange_pairs(ab_high, cd_high);
    }
    let mut columns = t;
    for i in 0..4 {
        let [a, b, c, d] = [t[i], t[4 + i], t[8 + i], t[12 + i]];
        // Blocks 0 2 and 1 3 of two groups each.
        let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        columns[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
        columns[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
        columns[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
        columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
    }
    columns
}

/// The first pairs of `a` and `b` in each block of four lanes, and the second pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn exchange_pairs(a: __m512, b: __m512) -> (__m512, __m512) {
    let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
    (_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
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
        let x: Vec<f32> = (0..32 * 50).map(|i| i as f32).collect();
        for (rows, width) in (1..=32).flat_map(|rows| [(rows, rows), (rows, 32)]) {
            for k in [1, 15, 16, 17, 47] {
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
