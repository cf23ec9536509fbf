//! Attention over rows and over a cache, of many tokens and of one.

use joulewise_kernels::args::{self, Mask, Rows, RowsMut};
use joulewise_kernels::cpu::HeadCache;
use joulewise_kernels::cuda::driver::DeviceBuffer;
use joulewise_kernels::cuda::{
    AttentionArgs, CacheView, CacheWriteArgs, DecodeArgs, DecodeScratch, KeyValues, RopeTable,
};
use joulewise_kernels::format::Format;
use joulewise_kernels::reference;

use crate::{FORMATS, Gpu, Random, close, rounded_bound, with_kernels};

/// Scores of magnitude `s` are off by about `s 2^-24`, and their exponentials relatively by as much; ALiBi's random
/// slopes here make scores of some hundreds.
const ATTENTION_BOUND: f64 = 1e-9;
/// With operands of 11 or 8 significant bits: queries and keys of standard deviation 1, `d` dimensions and a scale of
/// 0.3 give scores of standard deviation `0.3 sqrt(d)`, at most 4.8, each off by about `2^-11` or `2^-8` of that; so
/// are the weights relatively, and with them the squares of what they sum up.
fn attention_bound(format: Format) -> f64 {
    match format {
        Format::F32 => ATTENTION_BOUND,
        format => 25.0 * rounded_bound(format),
    }
}

/// One attention problem: sizes and what varies.
struct Problem {
    batch: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    starts: Vec<u32>,
    causal: bool,
    window: Option<usize>,
    slopes: Option<Vec<f32>>,
    mask: Option<Vec<u8>>,
}

impl Problem {
    fn random(random: &mut Random, tokens: usize, cached: bool) -> Self {
        let kv_heads = random.between(1, 3);
        let heads = kv_heads * random.pick(&[1, 2, 3, 4, 7, 8, 9]);
        let head_dim = random.pick(&[8, 16, 20, 33, 64, 64, 80, 96, 128, 128, 256]);
        let batch = random.between(1, 3);
        let capacity = tokens + if cached { random.pick(&[3, 70, 300]) } else { 0 };
        let starts = (0..batch).map(|_| if cached { random.below(capacity - tokens + 1) as u32 } else { 0 });
        let starts: Vec<u32> = starts.collect();
        let causal = cached || random.below(2) == 0;
        let window = (random.below(3) == 0).then(|| random.between(1, capacity));
        let slopes = (random.below(3) == 0).then(|| random.floats(heads));
        let mask = (!cached && random.below(2) == 0)
            .then(|| (0..batch * tokens).map(|_| random.below(4).min(1) as u8).collect());
        Problem { batch, tokens, heads, kv_heads, head_dim, capacity, starts, causal, window, slopes, mask }
    }

    fn describe(&self) -> String {
        let Problem { batch, tokens, heads, kv_heads, head_dim, causal, window, .. } = self;
        format!(
            "batch {batch} tokens {tokens} heads {heads}/{kv_heads} of {head_dim} causal {causal} window {window:?}, \
             slopes {} mask {} starts {:?}",
            self.slopes.is_some(),
            self.mask.is_some(),
            self.starts
        )
    }

    fn expected(&self, q: &[f32], k: args::HeadsView<'_>, v: args::HeadsView<'_>) -> Vec<f32> {
        let cols = self.heads * self.head_dim;
        let rows = self.batch * self.tokens;
        let mut y = vec![0.0; rows * cols];
        reference::attention(args::Attention {
            q: Rows { data: q, rows, cols, stride: cols },
            k: k.into(),
            v: v.into(),
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            kv_start: &self.starts,
            scale: 0.3,
            causal: self.causal,
            window: self.window,
            alibi_slopes: self.slopes.as_deref(),
            mask: self.mask.as_deref().map(|visible| Mask { visible, stride: self.tokens }),
            products: args::AttentionProducts::F32,
            y: RowsMut { data: &mut y, rows, cols },
        });
        y
    }
}

#[test]
fn attention_without_a_cache() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(5);
        for round in 0..60 {
            let precision = FORMATS[round % 3];
            let tokens = random.between(1, 150);
            let p = Problem::random(&mut random, tokens, false);
            let (rows, cols, kv_cols) = (p.batch * p.tokens, p.heads * p.head_dim, p.kv_heads * p.head_dim);
            let (dq, q) = gpu.typed(precision, &random.floats(rows * cols));
            let (dk, k) = gpu.typed(precision, &random.floats(rows * kv_cols));
            let (dv, v) = gpu.typed(precision, &random.floats(rows * kv_cols));
            let y = gpu.poisoned_in(precision, rows * cols);
            let slopes = p.slopes.as_ref().map(|slopes| gpu.floats(slopes));
            let mask = p.mask.as_ref().map(|mask| DeviceBuffer::from_slice(gpu.context, mask).unwrap());
            kernels
                .attention(&AttentionArgs {
                    q: dq.rows(rows, cols),
                    kv: KeyValues::Projected { k: dk.rows(rows, kv_cols), v: dv.rows(rows, kv_cols) },
                    tokens: p.tokens,
                    heads: p.heads,
                    kv_heads: p.kv_heads,
                    head_dim: p.head_dim,
                    kv_start: &gpu.ints(&p.starts),
                    scale: 0.3,
                    causal: p.causal,
                    window: p.window,
                    slopes: slopes.as_ref(),
                    mask: mask.as_ref(),
                    y: y.rows(rows, cols),
                })
                .unwrap();
            let view = |data| args::HeadsView {
                data,
                batch_stride: p.tokens * kv_cols,
                head_stride: p.head_dim,
                token_stride: kv_cols,
            };
            let bound = attention_bound(precision);
            close(&y.read(), &p.expected(&q, view(&k), view(&v)), bound, &p.describe());
        }
    });
}

/// Fills a cache, appends to it, and attends: with the kernel for any number of tokens, and with that for one.
#[test]
fn attention_over_a_cache() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(6);
        for round in 0..72 {
            let format = FORMATS[round % 3];
            let tokens = if round % 2 == 0 { 1 } else { random.between(1, 40) };
            let p = Problem::random(&mut random, tokens, true);
            let (rows, cols, kv_cols) = (p.batch * tokens, p.heads * p.head_dim, p.kv_heads * p.head_dim);
            let elements = p.batch * p.kv_heads * p.capacity * p.head_dim;
            let round_to = |values: &[f32]| {
                let encoded = format.encode(values, 1, values.len()).unwrap();
                let mut rounded = vec![0.0; values.len()];
                encoded.decode(&mut rounded).unwrap();
                (encoded.data, rounded)
            };
            let (old_k, mut host_k) = round_to(&random.floats(elements));
            let (old_v, mut host_v) = round_to(&random.floats(elements));
            let (keys, values) = (
                DeviceBuffer::from_slice(gpu.context, &old_k).unwrap(),
                DeviceBuffer::from_slice(gpu.context, &old_v).unwrap(),
            );
            let (dq, q) = gpu.typed(format, &random.floats(rows * cols));
            let (dk, k) = gpu.typed(format, &random.floats(rows * kv_cols));
            let (dv, v) = gpu.typed(format, &random.floats(rows * kv_cols));
            let rotary = 2 * (p.head_dim / 4).max(1);
            let has_rope = tokens == 1 && round % 4 == 0;
            let (cos, sin) = (random.floats(p.capacity * rotary / 2), random.floats(p.capacity * rotary / 2));
            let rotate = |x: &[f32], heads: usize| {
                let mut y = vec![0.0; x.len()];
                reference::rope(args::Rope {
                    x: Rows { data: x, rows, cols: heads * p.head_dim, stride: heads * p.head_dim },
                    heads,
                    head_dim: p.head_dim,
                    cos: &cos,
                    sin: &sin,
                    rotary,
                    positions: &p.starts,
                    y: RowsMut { data: &mut y, rows, cols: heads * p.head_dim },
                });
                y
            };
            let (rotated_q, rotated_k) =
                if has_rope { (rotate(&q, p.heads), rotate(&k, p.kv_heads)) } else { (q.clone(), k.clone()) };
            for (new, host) in [(&rotated_k, &mut host_k), (&v, &mut host_v)] {
                let shape = args::HeadsShape {
                    batch: p.batch,
                    heads: p.kv_heads,
                    capacity: p.capacity,
                    head_dim: p.head_dim,
                };
                let mut cache = HeadCache::encode(Format::F32, shape, host).unwrap();
                reference::cache_write(args::CacheWrite {
                    x: Rows { data: &round_to(new).1, rows, cols: kv_cols, stride: kv_cols },
                    tokens,
                    kv_start: &p.starts,
                    cache: &mut cache,
                });
                *host = cache.decode();
            }
            let cache = CacheView {
                keys: &keys,
                values: &values,
                format,
                batch: p.batch,
                kv_heads: p.kv_heads,
                capacity: p.capacity,
                head_dim: p.head_dim,
            };
            let y = gpu.poisoned_in(format, rows * cols);
            let kv_start = gpu.ints(&p.starts);
            let slopes = p.slopes.as_ref().map(|slopes| gpu.floats(slopes));
            let (k_rows, v_rows) = (dk.rows(rows, kv_cols), dv.rows(rows, kv_cols));
            if tokens == 1 {
                let scratch =
                    DecodeScratch::new(gpu.context, p.batch, p.heads, p.head_dim, p.capacity).unwrap();
                let table = RopeTable::new(gpu.context, &cos, &sin, rotary).unwrap();
                // Twice: the second run finds the counters as the first one left them.
                for _ in 0..2 {
                    kernels
                        .attention_decode(&DecodeArgs {
                            q: dq.rows(rows, cols),
                            new: Some((k_rows, v_rows)),
                            rope: has_rope.then_some((&table, &kv_start)),
                            cache,
                            heads: p.heads,
                            kv_start: &kv_start,
                            scale: 0.3,
                            window: p.window,
                            slopes: slopes.as_ref(),
                            scratch: &scratch,
                            y: y.rows(rows, cols),
                        })
                        .unwrap();
                }
            } else {
                kernels
                    .cache_write(&CacheWriteArgs { k: k_rows, v: v_rows, tokens, kv_start: &kv_start, cache })
                    .unwrap();
                kernels
                    .attention(&AttentionArgs {
                        q: dq.rows(rows, cols),
                        kv: KeyValues::Cached(cache),
                        tokens,
                        heads: p.heads,
                        kv_heads: p.kv_heads,
                        head_dim: p.head_dim,
                        kv_start: &kv_start,
                        scale: 0.3,
                        causal: true,
                        window: p.window,
                        slopes: slopes.as_ref(),
                        mask: None,
                        y: y.rows(rows, cols),
                    })
                    .unwrap();
            }
            let view = |data| args::HeadsView {
                data,
                batch_stride: p.kv_heads * p.capacity * p.head_dim,
                head_stride: p.capacity * p.head_dim,
                token_stride: p.head_dim,
            };
            let what = format!("{format} {}", p.describe());
            // Rotated keys may round to the neighbour of what the reference rounds them to.
            let rounded = if format == Format::F32 { 0.0 } else { rounded_bound(format) };
            let bound =
                if has_rope || tokens > 1 { attention_bound(format) } else { ATTENTION_BOUND + rounded };
            close(&y.read(), &p.expected(&rotated_q, view(&host_k), view(&host_v)), bound, &what);
            let mut bytes = vec![0; keys.len()];
            values.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, round_to(&host_v).0, "{what}: cached values");
        }
    });
}
