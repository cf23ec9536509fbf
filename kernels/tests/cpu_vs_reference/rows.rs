//! Means and copies of rows, and the cache.

use joulewise_kernels::args::{CacheWrite, HeadsShape, Mask, MeanPool, RowsMut, SelectRows};
use joulewise_kernels::cpu::HeadCache;
use joulewise_kernels::reference;

use crate::{EPSILON, Random, assert_close, kernels};

#[test]
fn mean_pool_matches() {
    let mut random = Random(30);
    for kernels in kernels() {
        for case in 0..20 {
            let (batch, tokens, k) = (1 + random.below(4), 1 + random.below(30), 1 + random.below(100));
            let x = random.matrix(batch * tokens, k);
            let stride = tokens + random.below(5);
            // Sequence 0 of every fourth case sees nothing.
            let visible: Vec<u8> = (0..batch * stride)
                .map(|i| if case % 4 == 0 && i < stride { 0 } else { random.below(2) as u8 * 3 })
                .collect();
            let mask = (case % 3 != 0).then_some(Mask { visible: &visible, stride });
            let (mut y, mut expected) = (vec![f32::NAN; batch * k], vec![0.0; batch * k]);
            let args = |data| MeanPool {
                x: x.view(),
                batch,
                tokens,
                mask,
                y: RowsMut { data, rows: batch, cols: k },
            };
            kernels.mean_pool(args(&mut y)).unwrap();
            reference::mean_pool(args(&mut expected));
            // `tokens` additions of numbers below 1, and a division, relative to a mean magnitude below 1.
            assert_close("mean_pool", &y, &expected, |_| (tokens + 2) as f64 * EPSILON);
        }
    }
}

#[test]
fn select_rows_and_cache_write_match() {
    let mut random = Random(31);
    for kernels in kernels() {
        for _ in 0..20 {
            let (batch, tokens, kv_heads) = (1 + random.below(3), 1 + random.below(9), 1 + random.below(4));
            let head_dim = random.choose(&[1, 8, 26, 64]);
            let capacity = tokens + random.below(20);
            let x = random.matrix(batch * tokens, kv_heads * head_dim);
            let kv_start: Vec<u32> = (0..batch).map(|_| random.below(capacity - tokens + 1) as u32).collect();
            let before = random.values(batch * kv_heads * capacity * head_dim);
            let shape = HeadsShape { batch, heads: kv_heads, capacity, head_dim };
            for format in HeadCache::FORMATS {
                let mut cache = HeadCache::encode(*format, shape, &before).unwrap();
                let mut expected = cache.clone();
                let args = |cache| CacheWrite { x: x.view(), tokens, kv_start: &kv_start, cache };
                kernels.cache_write(args(&mut cache)).unwrap();
                reference::cache_write(args(&mut expected));
                assert_eq!(cache.decode(), expected.decode(), "{format}");
            }

            let indices: Vec<u32> = (0..5).map(|_| random.below(batch * tokens) as u32).collect();
            let (mut y, mut expected) = (vec![f32::NAN; 5 * x.cols], vec![0.0; 5 * x.cols]);
            let args = |data| SelectRows {
                x: x.view(),
                indices: &indices,
                y: RowsMut { data, rows: 5, cols: x.cols },
            };
            kernels.select_rows(args(&mut y)).unwrap();
            reference::select_rows(args(&mut expected));
            assert_eq!(y, expected);
        }
    }
}
