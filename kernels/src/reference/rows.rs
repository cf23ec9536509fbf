//! Sums, copies and means of rows.

use super::{row, row_mut};
use crate::args::{Add, MeanPool, SelectRows};

/// `y = a + b`.
pub fn add(mut args: Add<'_>) {
    for r in 0..args.a.rows {
        let summands = row(&args.a, r).iter().zip(row(&args.b, r));
        for ((a, b), y) in summands.zip(row_mut(&mut args.y, r)) {
            *y = a + b;
        }
    }
}

/// The mean over the visible tokens of each sequence; zeros when there is none.
pub fn mean_pool(mut args: MeanPool<'_>) {
    for b in 0..args.batch {
        let visible: Vec<usize> = (0..args.tokens)
            .filter(|t| args.mask.is_none_or(|mask| mask.visible[b * mask.stride + t] != 0))
            .collect();
        for (i, y) in row_mut(&mut args.y, b).iter_mut().enumerate() {
            let sum: f64 = visible.iter().map(|t| f64::from(row(&args.x, b * args.tokens + t)[i])).sum();
            *y = (sum / visible.len().max(1) as f64) as f32;
        }
    }
}

/// `y[r] = x[indices[r]]`.
pub fn select_rows(mut args: SelectRows<'_>) {
    for (r, index) in args.indices.iter().enumerate() {
        row_mut(&mut args.y, r).copy_from_slice(row(&args.x, *index as usize));
    }
}
