//! Softmax and argmax.

use super::{row, row_mut};
use crate::args::{Rows, RowsMut};

/// `y = exp(x - max x) / sum exp(x - max x)`, row by row.
pub fn softmax(x: Rows<'_>, mut y: RowsMut<'_>) {
    for r in 0..x.rows {
        let max = row(&x, r).iter().fold(f64::NEG_INFINITY, |max, x| max.max(f64::from(*x)));
        let exponentials: Vec<f64> = row(&x, r).iter().map(|x| (f64::from(*x) - max).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        for (y, exponential) in row_mut(&mut y, r).iter_mut().zip(exponentials) {
            *y = (exponential / sum) as f32;
        }
    }
}

/// The index of the largest element; the first one wins ties, NaN never wins, 0 when nothing can win.
pub fn argmax(x: &[f32]) -> usize {
    let mut best = None;
    for (i, x) in x.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, max)| *x > max) {
            best = Some((i, *x));
        }
    }
    best.map_or(0, |(i, _)| i)
}
