//! Transposition of a few rows of `x`, 16 columns at a time.

use std::arch::x86_64::*;

/// `packed [k, rows]` from the rows `x[r * stride ..][.. k]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn interleave(x: &[f32], stride: usize, rows: usize, packed: &mut [f32]) {
    assert!((1..=16).contains(&rows), "a block has at most 16 rows");
    let k = packed.len() / rows;
    let last = stride.saturating_mul(rows - 1);
    assert!(last.saturating_add(k) <= x.len(), "every row has k elements");
    let lanes = mask(rows);
    for first in (0..k).step_by(16) {
        let columns = (k - first).min(16);
        let mut tile = [_mm512_setzero_ps(); 16];
        for (r, row) in tile.iter_mut().enumerate().take(rows) {
            // SAFETY: columns `first..first + columns` of row `r < rows` lie inside `x` (asserted above); the mask
            // covers exactly those.
            *row = unsafe { _mm512_maskz_loadu_ps(mask(columns), x.as_ptr().add(r * stride + first)) };
        }
        for (i, column) in transpose(tile).into_iter().enumerate().take(columns) {
            // SAFETY: `first + i < k`, so `packed` holds `rows` elements from there; the mask covers exactly those.
            unsafe { _mm512_mask_storeu_ps(packed.as_mut_ptr().add((first + i) * rows), lanes, column) };
        }
    }
}

/// The first `n` of 16 lanes.
#[inline]
pub(super) fn mask(n: usize) -> __mmask16 {
    if n >= 16 { 0xffff } else { (1 << n) - 1 }
}

/// Rows to columns, in four rounds of exchanges: pairs, fours, and twice blocks of four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(super) fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let pair = |a: __m512, b: __m512| (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let double = |a: __m512, b: __m512| {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        (_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    };
    let mut t = [_mm512_setzero_ps(); 16];
    for group in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| rows[4 * group + i]);
        let ((ab_low, ab_high), (cd_low, cd_high)) = (pair(a, b), pair(c, d));
        // `t[4 * group + i]` holds column `4 * block + i` of the group's four rows in its block `block`.
        (t[4 * group], t[4 * group + 1]) = double(ab_low, cd_low);
        (t[4 * group + 2], t[4 * group + 3]) = double(ab_high, cd_high);
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
        for rows in 1..=16 {
            for k in [1, 15, 16, 17, 47] {
                let mut packed = vec![-1.0; k * rows];
                // SAFETY: the features are available.
                unsafe { interleave(&x, 50, rows, &mut packed) };
                for (i, got) in packed.iter().enumerate() {
                    assert_eq!(*got, x[i % rows * 50 + i / rows], "rows={rows} k={k} i={i}");
                }
            }
        }
    }
}
