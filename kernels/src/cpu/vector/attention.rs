//! One query against keys and values as they lie in memory: what decoding does.

use super::Vector;
use crate::cpu::op_table::TokenRows;
use crate::cpu::prefetch;

/// How far ahead of the keys and values in use to fetch; more makes no difference.
const PREFETCH_BYTES: usize = 1024;

/// `scores[j] = q . keys[j]`.
///
/// As many keys as there are lanes are multiplied side by side, and their vectors of sums added up together.
///
/// # Safety
///
/// The processor has the features of `V`; likewise below.
#[inline(always)]
pub(in crate::cpu) unsafe fn dots<V: Vector>(q: &[f32], keys: TokenRows<'_>, scores: &mut [f32]) {
    let d = q.len();
    keys.assert_holds(scores.len(), d);
    for (group, scores) in scores.chunks_mut(V::LANES).enumerate() {
        let first = group * V::LANES;
        // SAFETY: `keys` holds rows `first..first + scores.len()` of `d` elements (asserted), and lanes past the last
        // key read that key again; `i + n <= d` elements of `q`. The caller vouches for the processor.
        unsafe {
            let mut sums = [V::splat(0.0); 16];
            let mut rows = [keys.data.as_ptr(); 16];
            for (j, row) in rows.iter_mut().enumerate().take(V::LANES) {
                *row = keys.data.as_ptr().add((first + j.min(scores.len() - 1)) * keys.stride);
            }
            let mut i = 0;
            while i + V::LANES <= d {
                let q = V::load(q.as_ptr().add(i));
                for j in 0..V::LANES {
                    prefetch::read(rows[j].wrapping_add(i).wrapping_byte_add(PREFETCH_BYTES));
                    sums[j] = V::load(rows[j].add(i)).mul_add(q, sums[j]);
                }
                i += V::LANES;
            }
            if i < d {
                let q = V::load_first(q.as_ptr().add(i), d - i);
                for j in 0..V::LANES {
                    sums[j] = V::load_first(rows[j].add(i), d - i).mul_add(q, sums[j]);
                }
            }
            V::sum_each(&sums).store_first(scores.as_mut_ptr(), scores.len());
        }
    }
}

/// `y += sum over j of weights[j] * values[j]`.
#[inline(always)]
pub(in crate::cpu) unsafe fn weighted_sum<V: Vector>(weights: &[f32], values: TokenRows<'_>, y: &mut [f32]) {
    let d = y.len();
    values.assert_holds(weights.len(), d);
    let mut i = 0;
    while i < d {
        // Two sets of sums: half of the registers there are.
        let most = if V::LANES == 16 { 8 } else { 4 };
        let n = (most * V::LANES).min(d - i);
        let vectors = n.div_ceil(V::LANES);
        // SAFETY: `values` holds `weights.len()` rows of `d` elements (asserted), of which these are `i..i + n`, as
        // many vectors as the constant says. The caller vouches for the processor.
        unsafe {
            let (stride, values) = (values.stride, values.data.as_ptr().wrapping_add(i));
            let y = &mut y[i..i + n];
            match vectors {
                1 => weighted_columns::<V, 1>(weights, values, stride, y),
                2 => weighted_columns::<V, 2>(weights, values, stride, y),
                3 => weighted_columns::<V, 3>(weights, values, stride, y),
                4 => weighted_columns::<V, 4>(weights, values, stride, y),
                5 => weighted_columns::<V, 5>(weights, values, stride, y),
                6 => weighted_columns::<V, 6>(weights, values, stride, y),
                7 => weighted_columns::<V, 7>(weights, values, stride, y),
                _ => weighted_columns::<V, 8>(weights, values, stride, y),
            }
        }
        i += n;
    }
}

/// The same for columns that fit `VECTORS` vectors, even and odd rows in sums of their own.
#[inline(always)]
unsafe fn weighted_columns<V: Vector, const VECTORS: usize>(
    weights: &[f32],
    values: *const f32,
    stride: usize,
    y: &mut [f32],
) {
    let last = y.len() - (VECTORS - 1) * V::LANES;
    // SAFETY: row `j` has `y.len()` elements from `values + j * stride`; vector `c` covers `LANES` of them, the last
    // vector `last`. The caller vouches for the processor.
    unsafe {
        let mut even = [V::splat(0.0); VECTORS];
        let mut odd = even;
        let (pairs, rest) = weights.as_chunks::<2>();
        for (j, pair) in pairs.iter().enumerate() {
            let rows = [values.add(2 * j * stride), values.add((2 * j + 1) * stride)];
            let weights = [V::splat(pair[0]), V::splat(pair[1])];
            for c in 0..VECTORS {
                let n = if c + 1 < VECTORS { V::LANES } else { last };
                prefetch::read(rows[0].wrapping_add(c * V::LANES).wrapping_byte_add(PREFETCH_BYTES));
                prefetch::read(rows[1].wrapping_add(c * V::LANES).wrapping_byte_add(PREFETCH_BYTES));
                even[c] = V::load_up_to(rows[0].add(c * V::LANES), n).mul_add(weights[0], even[c]);
                odd[c] = V::load_up_to(rows[1].add(c * V::LANES), n).mul_add(weights[1], odd[c]);
            }
        }
        if let [weight] = rest {
            let row = values.add((weights.len() - 1) * stride);
            for (c, even) in even.iter_mut().enumerate() {
                let n = if c + 1 < VECTORS { V::LANES } else { last };
                *even = V::load_up_to(row.add(c * V::LANES), n).mul_add(V::splat(*weight), *even);
            }
        }
        for c in 0..VECTORS {
            let n = if c + 1 < VECTORS { V::LANES } else { last };
            let to = y.as_mut_ptr().add(c * V::LANES);
            V::load_first(to, n).add(even[c].add(odd[c])).store_first(to, n);
        }
    }
}
