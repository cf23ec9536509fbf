//! Scaled dot-product attention and the cache it reads.

use super::{row, row_mut};
use crate::args::{Attention, CacheWrite, Heads, HeadsShape};

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
                let key = |j: usize| token(&args.k, [b, kv_head, j], d);
                let value = |j: usize| token(&args.v, [b, kv_head, j], d);
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
                        let products = q.iter().zip(key(*j)).map(|(q, k)| f64::from(*q) * f64::from(k));
                        let bias = args.alibi_slopes.map_or(0.0, |slopes| f64::from(slopes[h]) * *j as f64);
                        products.sum::<f64>() * f64::from(args.scale) + bias
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let values: Vec<Vec<f32>> = keys.iter().map(|j| value(*j)).collect();
                let y = &mut row_mut(&mut args.y, r)[h * d..][..d];
                for (i, y) in y.iter_mut().enumerate() {
                    let weighted = values.iter().zip(&weights).map(|(value, w)| w * f64::from(value[i]));
                    *y = if keys.is_empty() { 0.0 } else { (weighted.sum::<f64>() / sum) as f32 };
                }
            }
        }
    }
}

/// The key or value of a token, decoded.
fn token(heads: &Heads<'_>, [b, head, j]: [usize; 3], d: usize) -> Vec<f32> {
    match heads {
        Heads::Strided(view) => {
            let first = b * view.batch_stride + head * view.head_stride + j * view.token_stride;
            view.data[first..][..d].to_vec()
        }
        Heads::Cached(cache) => {
            let mut row = vec![0.0; d];
            cache.decode_row((b * cache.shape().heads + head) * cache.shape().capacity + j, &mut row);
            row
        }
    }
}

/// Stores new rows in a cache.
pub fn cache_write(args: CacheWrite<'_>) {
    let HeadsShape { batch, heads, capacity, head_dim } = args.cache.shape();
    for b in 0..batch {
        for i in 0..args.tokens {
            let x = row(&args.x, b * args.tokens + i);
            let token = args.kv_start[b] as usize + i;
            for h in 0..heads {
                args.cache.encode_row((b * heads + h) * capacity + token, &x[h * head_dim..][..head_dim]);
            }
        }
    }
}
