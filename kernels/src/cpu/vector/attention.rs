//! One query against keys and values as they lie in memory: what decoding does.

use super::Vector;
use super::element::Element;
use crate::cpu::op_table::{TokenData, TokenRows};
use crate::cpu::prefetch;
use crate::format::{int8, scale_of};

/// How far ahead of the keys and values in use to fetch; more makes no difference.
const PREFETCH_BYTES: usize = 1024;

/// `scores[j] = q . keys[j]`, without the scales of the keys. `is_far`: the keys come from memory, not from L1.
///
/// # Safety
///
/// The processor has the features of `V`; likewise below.
#[inline(always)]
pub(in crate::cpu) unsafe fn dots<V: Vector>(
    q: &[f32],
    keys: TokenRows<'_>,
    is_far: bool,
    scores: &mut [f32],
) {
    keys.assert_holds(scores.len(), q.len());
    // SAFETY: there are `scores.len()` keys of `q.len()` elements (asserted); the caller vouches for the processor.
    unsafe {
        match (keys.data, is_far) {
            (TokenData::F32(data), false) => dots_of::<V, _, false>(q, data.as_ptr(), keys.stride, scores),
            (TokenData::F32(data), true) => dots_of::<V, _, true>(q, data.as_ptr(), keys.stride, scores),
            (TokenData::F16(data), _) => dots_of::<V, _, true>(q, data.as_ptr(), keys.stride, scores),
            (TokenData::Int8(data), _) => dots_of::<V, _, true>(q, data.as_ptr(), keys.stride, scores),
        }
    }
}

/// As many keys as there are lanes are multiplied side by side, and their vectors of sums added up together.
#[inline(always)]
unsafe fn dots_of<V: Vector, E: Element, const FETCHES: bool>(
    q: &[f32],
    keys: *const E,
    stride: usize,
    scores: &mut [f32],
) {
    for (group, scores) in scores.chunks_mut(V::LANES).enumerate() {
        // SAFETY: `keys` are rows `first..first + scores.len()` of `q.len()` elements (by the caller). The caller vouches for
        // the processor.
        unsafe {
            let keys = keys.add(group * V::LANES * stride);
            if scores.len() == V::LANES {
                dots_of_lanes::<V, E, FETCHES, true>(q, keys, stride, V::LANES).store(scores.as_mut_ptr());
            } else {
                let dots = dots_of_lanes::<V, E, FETCHES, false>(q, keys, stride, scores.len());
                dots.store_first(scores.as_mut_ptr(), scores.len());
            }
        }
    }
}

/// The same for `count` keys, as many as there are lanes if ALL; lanes past them have the last of them.
#[inline(always)]
unsafe fn dots_of_lanes<V: Vector, E: Element, const FETCHES: bool, const ALL: bool>(
    q: &[f32],
    keys: *const E,
    stride: usize,
    count: usize,
) -> V {
    let d = q.len();
    // SAFETY: there are `count` keys of `d` elements (by the caller), and `i + n <= d` elements of `q`. The caller vouches for
    // the processor.
    unsafe {
        let mut sums = [V::splat(0.0); 16];
        // Four keys have one pointer and known distances from it: sixteen pointers are more than there are registers.
        let fours: [*const E; 4] = [0, 1, 2, 3].map(|four| keys.wrapping_add(4 * four * stride));
        let mut i = 0;
        while i + V::LANES <= d {
            let q = V::load(q.as_ptr().add(i));
            for (j, sum) in sums.iter_mut().enumerate().take(V::LANES) {
                let key = if ALL {
                    fours[j / 4].wrapping_add(j % 4 * stride + i)
                } else {
                    keys.add(j.min(count - 1) * stride + i)
                };
                if FETCHES && starts_line::<E>(i) {
                    prefetch::read(key.wrapping_byte_add(PREFETCH_BYTES).cast());
                }
                *sum = E::load::<V>(key).mul_add(q, *sum);
            }
            i += V::LANES;
        }
        if i < d {
            let q = V::load_first(q.as_ptr().add(i), d - i);
            for (j, sum) in sums.iter_mut().enumerate().take(V::LANES) {
                let key = keys.add(j.min(count - 1) * stride + i);
                *sum = E::load_first::<V>(key, d - i).mul_add(q, *sum);
            }
        }
        V::sum_each(&sums)
    }
}

/// `y += sum over j of weights[j] * values[j]`, without the scales of the values. `is_far`: the values come from memory, not
/// from L1.
#[inline(always)]
pub(in crate::cpu) unsafe fn weighted_sum<V: Vector>(
    weights: &[f32],
    values: TokenRows<'_>,
    is_far: bool,
    y: &mut [f32],
) {
    values.assert_holds(weights.len(), y.len());
    // SAFETY: there are `weights.len()` rows of `y.len()` elements (asserted); the caller vouches for the processor.
    unsafe {
        let stride = values.stride;
        match (values.data, is_far) {
            (TokenData::F32(data), false) => {
                weighted_sum_of::<V, _, false>(weights, data.as_ptr(), stride, y)
            }
            (TokenData::F32(data), true) => weighted_sum_of::<V, _, true>(weights, data.as_ptr(), stride, y),
            (TokenData::F16(data), _) => weighted_sum_of::<V, _, true>(weights, data.as_ptr(), stride, y),
            (TokenData::Int8(data), _) => weighted_sum_of::<V, _, true>(weights, data.as_ptr(), stride, y),
        }
    }
}

#[inline(always)]
unsafe fn weighted_sum_of<V: Vector, E: Element, const FETCHES: bool>(
    weights: &[f32],
    values: *const E,
    stride: usize,
    y: &mut [f32],
) {
    let d = y.len();
    let mut i = 0;
    while i < d {
        // Two sets of sums: half of the registers there are.
        let most = if V::LANES == 16 { 8 } else { 4 };
        let n = (most * V::LANES).min(d - i);
        let vectors = n.div_ceil(V::LANES);
        // SAFETY: `values` are `weights.len()` rows of `d` elements (by the caller), of which these are `i..i + n`, as
        // many vectors as the constant says. The caller vouches for the processor.
        unsafe {
            let values = values.wrapping_add(i);
            let y = &mut y[i..i + n];
            match vectors {
                1 => weighted_columns::<V, E, FETCHES, 1>(weights, values, stride, y),
                2 => weighted_columns::<V, E, FETCHES, 2>(weights, values, stride, y),
                3 => weighted_columns::<V, E, FETCHES, 3>(weights, values, stride, y),
                4 => weighted_columns::<V, E, FETCHES, 4>(weights, values, stride, y),
                5 => weighted_columns::<V, E, FETCHES, 5>(weights, values, stride, y),
                6 => weighted_columns::<V, E, FETCHES, 6>(weights, values, stride, y),
                7 => weighted_columns::<V, E, FETCHES, 7>(weights, values, stride, y),
                _ => weighted_columns::<V, E, FETCHES, 8>(weights, values, stride, y),
            }
        }
        i += n;
    }
}

/// The same for columns that fit `VECTORS` vectors, even and odd rows in sums of their own.
#[inline(always)]
unsafe fn weighted_columns<V: Vector, E: Element, const FETCHES: bool, const VECTORS: usize>(
    weights: &[f32],
    values: *const E,
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
                if FETCHES && starts_line::<E>(c * V::LANES) {
                    prefetch::read(
                        rows[0].wrapping_add(c * V::LANES).wrapping_byte_add(PREFETCH_BYTES).cast(),
                    );
                    prefetch::read(
                        rows[1].wrapping_add(c * V::LANES).wrapping_byte_add(PREFETCH_BYTES).cast(),
                    );
                }
                even[c] = E::load_up_to::<V>(rows[0].add(c * V::LANES), n).mul_add(weights[0], even[c]);
                odd[c] = E::load_up_to::<V>(rows[1].add(c * V::LANES), n).mul_add(weights[1], odd[c]);
            }
        }
        if let [weight] = rest {
            let row = values.add((weights.len() - 1) * stride);
            for (c, even) in even.iter_mut().enumerate() {
                let n = if c + 1 < VECTORS { V::LANES } else { last };
                *even = E::load_up_to::<V>(row.add(c * V::LANES), n).mul_add(V::splat(*weight), *even);
            }
        }
        for c in 0..VECTORS {
            let n = if c + 1 < VECTORS { V::LANES } else { last };
            let to = y.as_mut_ptr().add(c * V::LANES);
            V::load_first(to, n).add(even[c].add(odd[c])).store_first(to, n);
        }
    }
}

/// Rows of `d` elements, scales applied, to `out [rows, d]`.
#[inline(always)]
pub(in crate::cpu) unsafe fn widen_rows<V: Vector>(rows: TokenRows<'_>, d: usize, out: &mut [f32]) {
    for (j, out) in out.chunks_exact_mut(d.max(1)).enumerate() {
        let row = rows.skip(j);
        row.assert_holds(1, d);
        let scale = row.scales.map_or(1.0, |scales| scales[0]);
        // SAFETY: the row has `d` elements (asserted), as has `out`; the caller vouches for the processor.
        unsafe {
            match row.data {
                TokenData::F32(data) => widen_row::<V, _>(data.as_ptr(), scale, out),
                TokenData::F16(data) => widen_row::<V, _>(data.as_ptr(), scale, out),
                TokenData::Int8(data) => widen_row::<V, _>(data.as_ptr(), scale, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn widen_row<V: Vector, E: Element>(row: *const E, scale: f32, out: &mut [f32]) {
    // SAFETY: `n` elements from `i`, `i + n <= out.len()`, of both; the caller vouches for the processor.
    unsafe {
        let scale = V::splat(scale);
        for (i, out) in out.chunks_mut(V::LANES).enumerate() {
            let wide = E::load_up_to::<V>(row.add(i * V::LANES), out.len());
            wide.mul(scale).store_up_to(out.as_mut_ptr(), out.len());
        }
    }
}

/// Whether element `i` of a row is the first of a cache line's worth.
#[inline(always)]
fn starts_line<E>(i: usize) -> bool {
    (i * size_of::<E>()).is_multiple_of(64)
}

/// Rounds a row of keys or values to integers, as [`int8::round`] does; its scale.
#[inline(always)]
pub(in crate::cpu) unsafe fn round_row<V: Vector>(values: &[f32], codes: &mut [u8]) -> f32 {
    let (pieces, tail) = values.as_chunks::<MAX_LANES>();
    let (code_pieces, tail_codes) = codes.as_chunks_mut::<MAX_LANES>();
    let mut padded = [0.0; MAX_LANES];
    padded[..tail.len()].copy_from_slice(tail);
    // SAFETY: loads stay within pieces; the caller vouches for the processor.
    unsafe {
        let (zero, infinity) = (V::splat(0.0), V::splat(f32::INFINITY));
        let mut most = zero;
        for piece in pieces.iter().chain([&padded]) {
            for first in (0..MAX_LANES).step_by(V::LANES) {
                let magnitude = V::load(piece.as_ptr().add(first)).abs();
                most = most.max(magnitude.select_less(infinity, magnitude, zero));
            }
        }
        let scale = scale_of(most.largest(), int8::MAX);
        for (piece, codes) in pieces.iter().zip(code_pieces) {
            *codes = round_piece::<V>(piece, V::splat(scale));
        }
        let codes = round_piece::<V>(&padded, V::splat(scale));
        tail_codes.copy_from_slice(&codes[..tail_codes.len()]);
        scale
    }
}

/// Most lanes of a vector.
const MAX_LANES: usize = 16;

/// The nearest codes, ties to even, 0 for NaN.
#[inline(always)]
unsafe fn round_piece<V: Vector>(values: &[f32; MAX_LANES], scale: V) -> [u8; MAX_LANES] {
    // Adding 1.5 * 2^23 leaves no room for a fraction, and the integer in the low bits.
    const NO_FRACTION: f32 = 12_582_912.0;
    let mut rounded = [0.0; MAX_LANES];
    // SAFETY: loads and stores stay within pieces; the caller vouches for the processor.
    unsafe {
        let most = V::splat(int8::MAX);
        for first in (0..MAX_LANES).step_by(V::LANES) {
            let steps = V::load(values.as_ptr().add(first)).div(scale);
            // A NaN is less than nothing, and nothing is less than it.
            let numbers = steps.select_less(V::splat(int8::MAX + 1.0), steps, V::splat(0.0));
            let steps = most.select_less(steps, most, numbers).max(V::splat(-int8::MAX));
            steps.add(V::splat(NO_FRACTION)).store(rounded.as_mut_ptr().add(first));
        }
    }
    let mut codes = [0; MAX_LANES];
    for i in 0..MAX_LANES {
        codes[i] = rounded[i].to_bits() as u8;
    }
    codes
}
