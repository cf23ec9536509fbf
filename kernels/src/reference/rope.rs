//! Rotary position embedding, rotate-half layout.

use super::{row, row_mut};
use crate::args::Rope;

/// Rotates every head of every row.
pub fn rope(mut args: Rope<'_>) {
    let half = args.rotary / 2;
    for (r, position) in args.positions.iter().enumerate() {
        let x = row(&args.x, r);
        let y = row_mut(&mut args.y, r);
        y.copy_from_slice(x);
        for head in 0..args.heads {
            for i in 0..half {
                let cos = f64::from(args.cos[*position as usize * half + i]);
                let sin = f64::from(args.sin[*position as usize * half + i]);
                let (low, high) = (head * args.head_dim + i, head * args.head_dim + i + half);
                y[low] = (f64::from(x[low]) * cos - f64::from(x[high]) * sin) as f32;
                y[high] = (f64::from(x[high]) * cos + f64::from(x[low]) * sin) as f32;
            }
        }
    }
}
