//! Rotary embedding, alone and with the cache written at once.

use joulewise_kernels::args::{self, Rows, RowsMut};
use joulewise_kernels::cuda::{CacheView, CacheWriteArgs, DeviceRows, RopeArgs, RopeTable, RotateArgs};
use joulewise_kernels::reference;

use crate::{F32_BOUND, FORMATS, Gpu, Random, close, rounded_bound, with_kernels};

#[test]
fn rotary_embedding() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(4);
        for _ in 0..12 {
            let (rows, heads, head_dim) =
                (random.between(1, 9), random.between(1, 5), 2 * random.between(1, 40));
            let rotary = 2 * random.between(1, head_dim / 2);
            let positions: Vec<u32> = (0..rows).map(|_| random.below(50) as u32).collect();
            let (cos, sin) = (random.floats(50 * rotary / 2), random.floats(50 * rotary / 2));
            let cols = heads * head_dim;
            let x = random.floats(rows * cols);
            let y = gpu.poisoned(rows * cols);
            kernels
                .rope(&RopeArgs {
                    x: DeviceRows::dense(&gpu.floats(&x), rows, cols),
                    head_dim,
                    table: &RopeTable::new(gpu.context, &cos, &sin, rotary).unwrap(),
                    positions: &gpu.ints(&positions),
                    y: DeviceRows::dense(&y, rows, cols),
                })
                .unwrap();
            let mut expected = vec![0.0; rows * cols];
            reference::rope(args::Rope {
                x: Rows { data: &x, rows, cols, stride: cols },
                heads,
                head_dim,
                cos: &cos,
                sin: &sin,
                rotary,
                positions: &positions,
                y: RowsMut { data: &mut expected, rows, cols },
            });
            close(&gpu.read(&y), &expected, F32_BOUND, "rope");
        }
    });
}

/// Rotating queries and keys and writing the cache at once does what the three do one by one.
#[test]
fn rotation_of_a_prompt() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(7);
        for round in 0..12 {
            let format = FORMATS[1 + round % 2];
            let (batch, tokens, kv_heads) =
                (random.between(1, 3), random.between(1, 30), random.between(1, 3));
            let (heads, head_dim) = (kv_heads * random.between(1, 4), 16 * random.between(1, 8));
            let (rows, capacity) = (batch * tokens, tokens + random.below(9));
            let starts: Vec<u32> = (0..batch).map(|_| random.below(capacity - tokens + 1) as u32).collect();
            let positions: Vec<u32> =
                (0..rows).map(|row| starts[row / tokens] + (row % tokens) as u32).collect();
            let (cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
            let stride = cols + 2 * kv_cols;
            let (all, _) = gpu.typed(format, &random.floats(rows * stride));
            let q = all.part(0, rows, cols, stride);
            let k = all.part(cols, rows, kv_cols, stride);
            let v = all.part(cols + kv_cols, rows, kv_cols, stride);
            let half = head_dim / 2;
            let (cos, sin) = (random.floats(capacity * half), random.floats(capacity * half));
            let table = RopeTable::new(gpu.context, &cos, &sin, head_dim).unwrap();
            let (positions, kv_start) = (gpu.ints(&positions), gpu.ints(&starts));
            let elements = batch * kv_heads * capacity * head_dim;
            let caches: Vec<_> = (0..4).map(|_| gpu.typed(format, &vec![0.0; elements]).0).collect();
            let cache =
                |keys, values| CacheView { keys, values, format, batch, kv_heads, capacity, head_dim };
            let (y, expected) = (gpu.poisoned_in(format, rows * cols), gpu.poisoned_in(format, rows * cols));
            let rotated = gpu.poisoned_in(format, rows * kv_cols);
            kernels
                .rotate_and_write(&RotateArgs {
                    q,
                    k,
                    v,
                    table: &table,
                    positions: &positions,
                    tokens,
                    kv_start: &kv_start,
                    cache: cache(&caches[0].data, &caches[1].data),
                    y: y.rows(rows, cols),
                })
                .unwrap();
            for (x, y) in [(q, expected.rows(rows, cols)), (k, rotated.rows(rows, kv_cols))] {
                let args = RopeArgs { x, head_dim, table: &table, positions: &positions, y };
                kernels.rope(&args).unwrap();
            }
            let cache = cache(&caches[2].data, &caches[3].data);
            let args =
                CacheWriteArgs { k: rotated.rows(rows, kv_cols), v, tokens, kv_start: &kv_start, cache };
            kernels.cache_write(&args).unwrap();
            // Products and their sum may be rounded at once in one and apart in the other.
            let bound = rounded_bound(format);
            close(&y.read(), &expected.read(), bound, "queries");
            close(&caches[0].read(), &caches[2].read(), bound, "keys");
            assert_eq!(caches[1].read(), caches[3].read(), "values");
        }
    });
}
