//! Attention over a whole sequence and over a key-value cache.

use std::hint::black_box;

use joulewise_kernels::args::{Attention, AttentionProducts, HeadsView, Rows, RowsMut};
use joulewise_kernels::cpu::CpuKernels;

use super::{Call, Case, must};
use crate::input;
use crate::roofline::Work;
use crate::shape::{AttentionShape, attentions};

/// Every attention shape, keys and values laid out as a cache.
pub fn attention(kernels: &CpuKernels, is_test: bool) -> Vec<Case<'_>> {
    attentions(is_test).into_iter().map(|shape| case(kernels, shape)).collect()
}

fn case(kernels: &CpuKernels, shape: AttentionShape) -> Case<'_> {
    let AttentionShape { name, tokens, kv_start, heads, kv_heads, head_dim, causal } = shape;
    let keys = kv_start + tokens;
    let prepare = move || -> Call<'_> {
        let width = heads * head_dim;
        let q = input::values(1, tokens * width);
        let k = input::values(2, kv_heads * keys * head_dim);
        let v = input::values(3, kv_heads * keys * head_dim);
        let mut y = vec![0.0; tokens * width];
        Box::new(move || {
            let cache = |data| HeadsView {
                data,
                batch_stride: kv_heads * keys * head_dim,
                head_stride: keys * head_dim,
                token_stride: head_dim,
            };
            must(kernels.attention(Attention {
                q: Rows { data: black_box(&q), rows: tokens, cols: width, stride: width },
                k: cache(&k[..]),
                v: cache(&v[..]),
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
        op: "attention".to_owned(),
        shape: format!("{name} {tokens}x{keys}, {heads}/{kv_heads} heads of {head_dim}"),
        work: Work::repeated(shape.flops(), shape.bytes()),
        prepare: Box::new(prepare),
    }
}
