//! Rotation of one head.

use crate::cpu::op_table::RopeHead;

pub(super) fn rope(head: RopeHead<'_>) {
    let RopeHead { x, cos, sin, y } = head;
    let half = cos.len().min(sin.len()).min(x.len() / 2).min(y.len() / 2);
    let (low, rest) = x.split_at(half);
    let (high, tail) = rest.split_at(half);
    let (y_low, y_rest) = y.split_at_mut(half);
    let (y_high, y_tail) = y_rest.split_at_mut(half);
    for i in 0..half {
        y_low[i] = low[i] * cos[i] - high[i] * sin[i];
        y_high[i] = high[i] * cos[i] + low[i] * sin[i];
    }
    for (y, x) in y_tail.iter_mut().zip(tail) {
        *y = *x;
    }
}
