//! Rotation of one head.

use super::Vector;
use crate::cpu::op_table::RopeHead;

/// Rotates one head.
///
/// # Safety
///
/// The processor has the features of `V`.
#[inline(always)]
pub(in crate::cpu) unsafe fn rope<V: Vector>(head: RopeHead<'_>) {
    let RopeHead { x, cos, sin, y } = head;
    let half = cos.len();
    assert!(sin.len() == half && 2 * half <= x.len() && x.len() == y.len(), "lengths of a head");
    let mut i = 0;
    while i < half {
        let n = V::LANES.min(half - i);
        // SAFETY: `i + n <= half`, so `n` elements from `i` lie inside `cos` and `sin`, and `n` elements from `i` and
        // from `half + i` inside `x` and `y`. The caller vouches for the processor.
        unsafe {
            let (low, high) =
                (V::load_up_to(x.as_ptr().add(i), n), V::load_up_to(x.as_ptr().add(half + i), n));
            let (cos, sin) = (V::load_up_to(cos.as_ptr().add(i), n), V::load_up_to(sin.as_ptr().add(i), n));
            let zero = V::splat(0.0);
            let new_low = low.mul_add(cos, zero.sub(high.mul(sin)));
            let new_high = high.mul_add(cos, low.mul(sin));
            new_low.store_first(y.as_mut_ptr().add(i), n);
            new_high.store_first(y.as_mut_ptr().add(half + i), n);
        }
        i += n;
    }
    y[2 * half..].copy_from_slice(&x[2 * half..]);
}
