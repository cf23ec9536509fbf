//! Softmax and argmax of one row, and the exponentials of attention scores.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use super::math::exp;
use super::{Arithmetic, Vector};
use crate::cpu::op_table::Scores;

/// `y = exp(x - max x) / sum exp(x - max x)`.
///
/// # Safety
///
/// The processor has the features of `V`; likewise below.
#[inline(always)]
pub(in crate::cpu) unsafe fn softmax<V: Vector>(x: &[f32], y: &mut [f32]) {
    let len = x.len().min(y.len());
    let x = &x[..len];
    // SAFETY: the loads and stores name `n` elements from `i`, `i + n <= len`; the caller vouches for the processor.
    unsafe {
        let max = V::splat(largest::<V>(x));
        let mut sum = V::splat(0.0);
        let mut i = 0;
        while i + V::LANES <= len {
            let e = exp(V::load(x.as_ptr().add(i)).sub(max));
            e.store(y.as_mut_ptr().add(i));
            sum = sum.add(e);
            i += V::LANES;
        }
        if i < len {
            let n = len - i;
            exp(V::load_first(x.as_ptr().add(i), n).sub(max)).store_first(y.as_mut_ptr().add(i), n);
            sum = sum.add(V::load_first(y.as_ptr().add(i), n));
        }
        let factor = V::splat(1.0 / sum.sum());
        let mut i = 0;
        while i < len {
            let n = V::LANES.min(len - i);
            let y = y.as_mut_ptr().add(i);
            V::load_first(y, n).mul(factor).store_first(y, n);
            i += n;
        }
    }
}

/// The largest element that is not NaN; minus infinity when there is none.
#[inline(always)]
unsafe fn largest<V: Vector>(x: &[f32]) -> f32 {
    // SAFETY: the loads name `LANES` elements from `i`, inside `x`; the caller vouches for the processor.
    unsafe {
        let mut max = [V::splat(f32::NEG_INFINITY); 4];
        let mut i = 0;
        while i + 4 * V::LANES <= x.len() {
            for (j, max) in max.iter_mut().enumerate() {
                *max = V::load(x.as_ptr().add(i + j * V::LANES)).max(*max);
            }
            i += 4 * V::LANES;
        }
        while i + V::LANES <= x.len() {
            max[0] = V::load(x.as_ptr().add(i)).max(max[0]);
            i += V::LANES;
        }
        let vector = max[0].max(max[1]).max(max[2].max(max[3])).largest();
        x[i..].iter().copied().fold(vector, f32::max)
    }
}

/// The first index of the largest element, NaN aside; 0 when there is none.
#[inline(always)]
pub(in crate::cpu) unsafe fn argmax<V: Vector>(x: &[f32]) -> usize {
    // SAFETY: the caller vouches for the processor.
    let max = unsafe { largest::<V>(x) };
    if max == f32::NEG_INFINITY {
        return x.iter().position(|x| !x.is_nan()).unwrap_or(0);
    }
    let mut first = 0;
    // SAFETY: the load names `LANES` elements from `first`, inside `x`.
    while first + V::LANES <= x.len() && !unsafe { V::load(x.as_ptr().add(first)).any_equal(V::splat(max)) } {
        first += V::LANES;
    }
    x[first..].iter().position(|x| *x == max).map_or(0, |i| first + i)
}

/// Replaces the scores of one query by `exp(score - max)`, those of invisible keys by zero, and returns the new
/// maximum and the sum.
#[inline(always)]
pub(in crate::cpu) unsafe fn exponentials<V: Vector>(scores: Scores<'_>) -> (f32, f32) {
    let Scores { scores, scale, slope, first_key, visible, mask, max } = scores;
    let len = scores.len();
    assert!(mask.is_none_or(|mask| mask.len() == len), "a flag for every score");
    // SAFETY: the loads and stores name `n` elements from `i`, `i + n <= len`, of `scores` and `mask`; the caller
    // vouches for the processor.
    unsafe {
        let hidden = V::splat(f32::NEG_INFINITY);
        let lanes = lane_numbers::<V>();
        // With nothing hidden and nothing added the first pass only looks.
        let is_plain = mask.is_none() && slope == 0.0 && visible == (0..len) && scale > 0.0;
        let (factor, mut i) = if is_plain { (scale, len) } else { (1.0, 0) };
        let mut highest = V::splat(if is_plain { max.max(largest::<V>(scores) * scale) } else { max });
        while i < len {
            let n = V::LANES.min(len - i);
            let at = scores.as_mut_ptr().add(i);
            let mut score = V::load_up_to(at, n).mul(V::splat(scale));
            if slope != 0.0 {
                let key = lanes.add(V::splat((first_key + i) as f32));
                score = key.mul_add(V::splat(slope), score);
            }
            if i < visible.start || i + V::LANES > visible.end {
                let index = lanes.add(V::splat(i as f32));
                score = index.select_less(V::splat(visible.start as f32), hidden, score);
                score = index.select_less(V::splat(visible.end as f32), score, hidden);
            }
            if let Some(mask) = mask {
                let flags = V::load_bytes(mask.as_ptr().add(i), n);
                score = V::splat(0.0).select_less(flags, score, hidden);
            }
            score.store_up_to(at, n);
            highest = score.max(highest);
            i += n;
        }
        let max = highest.largest();
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return (max, 0.0);
        }
        let (factor, highest) = (V::splat(factor), V::splat(max));
        let mut sum = V::splat(0.0);
        let mut i = 0;
        // Several at a time, none of which waits for the others.
        let (factors, highests, mut sums) = ([factor; 4], [highest; 4], [sum; 4]);
        while i + 4 * V::LANES <= len {
            let at = scores.as_mut_ptr().add(i);
            let mut e = factors;
            for j in 0..4 {
                e[j] = V::load(at.add(j * V::LANES));
            }
            e = exp(e.mul(factors).sub(highests));
            for j in 0..4 {
                e[j].store(at.add(j * V::LANES));
            }
            sums = sums.add(e);
            i += 4 * V::LANES;
        }
        for j in 0..4 {
            sum = sum.add(sums[j]);
        }
        while i + V::LANES <= len {
            let at = scores.as_mut_ptr().add(i);
            let e = exp(V::load(at).mul(factor).sub(highest));
            e.store(at);
            sum = sum.add(e);
            i += V::LANES;
        }
        if i < len {
            let at = scores.as_mut_ptr().add(i);
            exp(V::load_first(at, len - i).mul(factor).sub(highest)).store_first(at, len - i);
            sum = sum.add(V::load_first(at, len - i));
        }
        (max, sum.sum())
    }
}

/// 0, 1, 2 ...
#[inline(always)]
unsafe fn lane_numbers<V: Vector>() -> V {
    const NUMBERS: [f32; 16] =
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
    // SAFETY: there are at most 16 lanes; the caller vouches for the processor.
    unsafe { V::load(NUMBERS.as_ptr()) }
}
