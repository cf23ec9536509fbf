//! Attention over a whole sequence and over a key-value cache.

use std::hint::black_box;

use joulewise_kernels::args::{Attention, AttentionProducts, HeadsShape, Rows, RowsMut};
use joulewise_kernels::cpu::{CpuKernels, HeadCache};
use joulewise_kernels::format::Format;

use super::{Call, Case, must};
use crate::input;
use crate::roofline::Work;
use crate::shape::{AttentionShape, attentions};

/// Every attention shape with keys and values in a cache of every format.
pub fn attention(kernels: &CpuKernels, is_test: bool) -> Vec<Case<'_>> {
    let shapes = attentions(is_test).into_iter();
    shapes
        .flat_map(|shape| HeadCache::FORMATS.iter().map(move |cache| case(kernels, shape, *cache)))
        .collect()
}

fn case(kernels: &CpuKernels, shape: AttentionShape, cache: Format) -> Case<'_> {
    let AttentionShape { name, tokens, kv_start, heads, kv_heads, head_dim, causal } = shape;
    let keys = kv_start + tokens;
    let prepare = move || -> Call<'_> {
        let width = heads * head_dim;
        let q = input::values(1, tokens * width);
        let cached = HeadsShape { batch: 1, heads: kv_heads, capacity: keys, head_dim };
        let [k, v] = [2, 3].map(|seed| {
            must(HeadCache::encode(cache, cached, &input::values(seed, kv_heads * keys * head_dim)))
        });
        let mut y = vec![0.0; tokens * width];
        Box::new(move || {
            must(kernels.attention(Attention {
                q: Rows { data: black_box(&q), rows: tokens, cols: width, stride: width },
                k: (&k).into(),
                v: (&v).into(),
                batch: 1,
                tokens,
                heads,
                kv_heads,
                head_dim,
                kv_start: &[kv_start as u32],
                scale: 1.0 / (head_dim as f32).sqrt(),
                causal,
                window: None,
                alibi_slopes: None,
                mask: None,
                products: AttentionProducts::F32,
                y: RowsMut { data: black_box(&mut y), rows: tokens, cols: width },
            }));
        })
    };
    Case {
        op: format!("attention/{cache}"),
        shape: format!("{name} {tokens}x{keys}, {heads}/{kv_heads} heads of {head_dim}"),
        work: Work::repeated(shape.flops(), shape.bytes(cache)),
        prepare: Box::new(prepare),
    }
}
