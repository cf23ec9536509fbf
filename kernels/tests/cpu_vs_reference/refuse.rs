//! Arguments that do not fit are refused, whatever they are: a wrong size must never reach the unsafe code.

use std::convert::Infallible;

use joulewise_kernels::KernelError;
use joulewise_kernels::args::{
    Attention, AttentionProducts, CacheWrite, Embed, HeadsShape, HeadsView, InputRounding, Mask, MatMul,
    MeanPool, Norm, NormKind, Rope, Rows, RowsMut, SelectRows,
};
use joulewise_kernels::cpu::HeadCache;
use joulewise_kernels::format::Format;
use proptest::prelude::*;

use crate::kernels;

/// Small sizes that sometimes fit, and sizes that overflow when multiplied.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0usize..5, 1 => Just(usize::MAX), 1 => Just(usize::MAX / 2 + 1), 1 => Just(1usize << 40)]
}

fn rows(data: &[f32]) -> impl Strategy<Value = Rows<'_>> {
    (size(), size(), size()).prop_map(|(rows, cols, stride)| Rows { data, rows, cols, stride })
}

/// Enough for small sizes only.
static DATA: [f32; 48] = [0.5; 48];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sizes_of_rows(x in rows(&DATA), (a, b, c, d) in (size(), size(), size(), size()), ids in prop::collection::vec(0u32..6, 0..4)) {
        for kernels in kernels() {
            let mut y = [0.0; 40];
            let _ = kernels.norm(Norm { kind: NormKind::Layer, x, weight: &DATA[..a.min(5)], bias: None, eps: 0.1, y: RowsMut { data: &mut y, rows: b, cols: c } });
            let _ = kernels.softmax(x, RowsMut { data: &mut y, rows: a, cols: b });
            let _ = kernels.select_rows(SelectRows { x, indices: &ids, y: RowsMut { data: &mut y, rows: a, cols: b } });
            let mask = Mask { visible: &[1; 9], stride: d };
            let _ = kernels.mean_pool(MeanPool { x, batch: a, tokens: b, mask: Some(mask), y: RowsMut { data: &mut y, rows: a, cols: c } });
            let _ = kernels.rope(Rope { x, heads: a, head_dim: b, cos: &DATA[..c.min(9)], sin: &DATA[..c.min(9)], rotary: d, positions: &ids, y: RowsMut { data: &mut y, rows: x.rows, cols: x.cols } });
            let shape = HeadsShape { batch: a.min(4), heads: c.min(4), capacity: 3, head_dim: d.min(4) };
            let mut cache = HeadCache::zeroed(Format::Int8, shape).unwrap();
            let _ = kernels.cache_write(CacheWrite { x, tokens: b, kv_start: &ids, cache: &mut cache });
        }
    }

    #[test]
    fn any_sizes_of_products(x in rows(&DATA), n in 0usize..5, k in 0usize..5, (a, b) in (size(), size()), ids in prop::collection::vec(0u32..6, 0..4)) {
        for kernels in kernels() {
            let Ok(w) = kernels.pack(Format::F16, n, k, &mut |_, out| { out.fill(1.0); Ok::<(), Infallible>(()) });
            let mut y = [0.0; 40];
            let _ = kernels.matmul(MatMul { x, rounding: InputRounding::None, w: &w, bias: Some(&DATA[..a.min(5)]), activation: None, residual: None, next: &[], y: RowsMut { data: &mut y, rows: a, cols: b } });
            let _ = kernels.embed(Embed { table: &w, ids: &ids, y: RowsMut { data: &mut y, rows: a, cols: b } });
        }
    }

    #[test]
    fn any_sizes_of_heads(q in rows(&DATA), (batch_stride, head_stride, token_stride) in (size(), size(), size()), sizes in (size(), size(), size(), size(), size()), kv_start in prop::collection::vec(prop_oneof![0u32..4, Just(u32::MAX)], 0..4), (causal, window) in (any::<bool>(), prop::option::of(size()))) {
        let (batch, tokens, heads, kv_heads, head_dim) = sizes;
        for kernels in kernels() {
            let mut y = [0.0; 40];
            let view = HeadsView { data: &DATA, batch_stride, head_stride, token_stride };
            let shape = HeadsShape { batch: batch_stride.min(4), heads: head_stride.min(4), capacity: token_stride.min(7), head_dim: head_dim.min(4) };
            let cache = HeadCache::zeroed(Format::F16, shape).unwrap();
            for (k, v) in [(view.into(), view.into()), ((&cache).into(), (&cache).into()), (view.into(), (&cache).into())] {
                let _ = kernels.attention(Attention {
                    q, k, v, batch, tokens, heads, kv_heads, head_dim, kv_start: &kv_start, scale: 1.0, causal, window,
                    alibi_slopes: None, mask: Some(Mask { visible: &[1; 30], stride: 7 }), products: AttentionProducts::F32, y: RowsMut { data: &mut y, rows: q.rows, cols: q.cols },
                });
            }
        }
    }
}

#[test]
fn errors_name_the_culprit() {
    for kernels in kernels() {
        let Ok(w) = kernels.pack(Format::F32, 4, 3, &mut |_, out| {
            out.fill(1.0);
            Ok::<(), Infallible>(())
        });
        let mut y = [0.0; 8];
        let x = Rows { data: &DATA, rows: 2, cols: 2, stride: 2 };
        let error = kernels
            .matmul(MatMul {
                x,
                rounding: InputRounding::None,
                w: &w,
                bias: None,
                activation: None,
                residual: None,
                next: &[],
                y: RowsMut { data: &mut y, rows: 2, cols: 4 },
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "matmul: columns of x is 2, expected 3");
        let error = kernels
            .embed(Embed { table: &w, ids: &[4], y: RowsMut { data: &mut y, rows: 1, cols: 3 } })
            .unwrap_err();
        assert!(matches!(error, KernelError::Index { op: "embed", index: 4, rows: 4 }));
        assert!(matches!(w.decode_row(4, &mut y[..3]), Err(KernelError::Index { .. })));
        assert!(matches!(w.decode_row(3, &mut y[..4]), Err(KernelError::Shape { .. })));
    }
}
