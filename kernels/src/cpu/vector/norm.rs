//! LayerNorm and RMSNorm of one row.
//!
//! The variance is taken around a first mean, and both are corrected by what the second pass finds left of the mean:
//! a row far from zero keeps its digits.

use super::Vector;
use crate::args::NormKind;
use crate::cpu::op_table::NormRow;

/// Normalises one row.
///
/// # Safety
///
/// The processor has the features of `V`.
#[inline(always)]
pub(in crate::cpu) unsafe fn norm<V: Vector>(row: NormRow<'_>) {
    let NormRow { kind, x, weight, bias, eps, y } = row;
    let k = x.len();
    assert!(weight.len() == k && y.len() == k && bias.is_none_or(|bias| bias.len() == k), "lengths of a row");
    if k == 0 {
        return;
    }
    let count = k as f64;
    let first_mean = match kind {
        NormKind::Layer => {
            // SAFETY: the caller vouches for the processor.
            let (sum, _) = unsafe { sums::<V>(x, 0.0) };
            (f64::from(sum) / count) as f32
        }
        NormKind::Rms => 0.0,
    };
    // SAFETY: as above.
    let (sum, squares) = unsafe { sums::<V>(x, first_mean) };
    let rest = match kind {
        NormKind::Layer => f64::from(sum) / count,
        NormKind::Rms => 0.0,
    };
    let variance = (f64::from(squares) / count - rest * rest).max(0.0);
    let factor = (1.0 / (variance + f64::from(eps)).sqrt()) as f32;
    // SAFETY: all slices have `k` elements; the loads and stores name `n` elements from `i`, `i + n <= k`.
    unsafe {
        let (first_mean, rest, factor) = (V::splat(first_mean), V::splat(rest as f32), V::splat(factor));
        let mut i = 0;
        while i < k {
            let n = V::LANES.min(k - i);
            let weight = V::load_up_to(weight.as_ptr().add(i), n);
            let normal = V::load_up_to(x.as_ptr().add(i), n).sub(first_mean).sub(rest).mul(factor);
            let result = match bias {
                Some(bias) => normal.mul_add(weight, V::load_up_to(bias.as_ptr().add(i), n)),
                None => normal.mul(weight),
            };
            result.store_up_to(y.as_mut_ptr().add(i), n);
            i += n;
        }
    }
}

/// The sum of `x - mean` and of its squares, in four vectors of sums each.
#[inline(always)]
unsafe fn sums<V: Vector>(x: &[f32], mean: f32) -> (f32, f32) {
    // SAFETY: the loads name `n` elements from `i`, `i + n <= x.len()`; the caller vouches for the processor.
    unsafe {
        let mean = V::splat(mean);
        let mut sum = [V::splat(0.0); 4];
        let mut squares = sum;
        let mut i = 0;
        while i + 4 * V::LANES <= x.len() {
            for j in 0..4 {
                let rest = V::load(x.as_ptr().add(i + j * V::LANES)).sub(mean);
                sum[j] = sum[j].add(rest);
                squares[j] = rest.mul_add(rest, squares[j]);
            }
            i += 4 * V::LANES;
        }
        let mut tail = (0.0, 0.0);
        while i < x.len() {
            let n = V::LANES.min(x.len() - i);
            if n == V::LANES {
                let rest = V::load(x.as_ptr().add(i)).sub(mean);
                sum[0] = sum[0].add(rest);
                squares[0] = rest.mul_add(rest, squares[0]);
            } else {
                // The lanes past the end would each hold `-mean`: left to plain arithmetic.
                let mut last = [0.0; 16];
                V::load_first(x.as_ptr().add(i), n).sub(mean).store(last.as_mut_ptr());
                for rest in &last[..n] {
                    tail.0 += rest;
                    tail.1 += rest * rest;
                }
            }
            i += n;
        }
        let sum = sum[0].add(sum[1]).add(sum[2].add(sum[3])).sum();
        let squares = squares[0].add(squares[1]).add(squares[2].add(squares[3])).sum();
        (sum + tail.0, squares + tail.1)
    }
}
