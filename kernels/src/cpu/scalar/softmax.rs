//! Softmax and argmax of one row.

pub(super) fn softmax(x: &[f32], y: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (x, y) in x.iter().zip(y.iter_mut()) {
        *y = (x - max).exp();
        sum += f64::from(*y);
    }
    let factor = (1.0 / sum) as f32;
    y.iter_mut().for_each(|y| *y *= factor);
}

pub(super) fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    let mut found = false;
    for (i, x) in x.iter().enumerate() {
        // `!found` lets a first -infinity win over nothing; NaN compares false and never wins.
        if *x > max || (!found && !x.is_nan()) {
            (best, max, found) = (i, *x, true);
        }
    }
    best
}
