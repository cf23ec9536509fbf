//! Scaled dot-product attention and the cache it reads.

use super::{row, row_mut};
use crate::args::{Attention, CacheWrite};

/// `y = softmax(scale q k^T + bias, masked) v`; a query that sees no key yields zeros.
pub fn attention(mut args: Attention<'_>) {
    let d = args.head_dim;
    for b in 0..args.batch {
        let start = args.kv_start[b] as usize;
        for i in 0..args.tokens {
            let position = start + i;
            let r = b * args.tokens + i;
            for h in 0..args.heads {
                let kv_head = h / (args.heads / args.kv_heads);
                let key = |j: usize| {
                    &args.k.data
                        [b * args.k.batch_stride + kv_head * args.k.head_stride + j * args.k.token_stride..]
                        [..d]
                };
                let value = |j: usize| {
                    &args.v.data
                        [b * args.v.batch_stride + kv_head * args.v.head_stride + j * args.v.token_stride..]
                        [..d]
                };
                let visible = |j: usize| {
                    args.mask.is_none_or(|mask| mask.visible[b * mask.stride + j] != 0)
                        && (!args.causal || j <= position)
                        && args.window.is_none_or(|window| position.abs_diff(j) < window)
                };
                let q = &row(&args.q, r)[h * d..][..d];
                let keys: Vec<usize> = (0..start + args.tokens).filter(|j| visible(*j)).collect();
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|j| {
                        let products = q.iter().zip(key(*j)).map(|(q, k)| f64::from(*q) * f64::from(*k));
                        let bias = args.alibi_slopes.map_or(0.0, |slopes| f64::from(slopes[h]) * *j as f64);
                        products.sum::<f64>() * f64::from(args.scale) + bias
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let y = &mut row_mut(&mut args.y, r)[h * d..][..d];
                for (i, y) in y.iter_mut().enumerate() {
                    let weighted = keys.iter().zip(&weights).map(|(j, w)| w * f64::from(value(*j)[i]));
                    *y = if keys.is_empty() { 0.0 } else { (weighted.sum::<f64>() / sum) as f32 };
                }
            }
        }
    }
}

/// Copies new rows into a cache `[batch, kv_heads, capacity, head_dim]`.
pub fn cache_write(args: CacheWrite<'_>) {
    let d = args.head_dim;
    for b in 0..args.batch {
        for i in 0..args.tokens {
            let x = row(&args.x, b * args.tokens + i);
            for h in 0..args.kv_heads {
                let token = args.kv_start[b] as usize + i;
                let start = ((b * args.kv_heads + h) * args.capacity + token) * d;
                args.cache[start..][..d].copy_from_slice(&x[h * d..][..d]);
            }
        }
    }
}
