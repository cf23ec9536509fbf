//! Attention: head sizes, grouped queries, masks of every kind, prefill and decode, both layouts of keys, caches in every
//! format.

use joulewise_kernels::args::{Attention, AttentionProducts, Heads, HeadsShape, HeadsView, Mask, RowsMut};
use joulewise_kernels::cpu::{CpuKernels, HeadCache, Isa, ThreadPool};
use joulewise_kernels::format::Format;
use joulewise_kernels::reference;

use crate::{EPSILON, Matrix, Random, assert_close, kernels};

/// One random call, owning its data.
#[derive(Clone)]
struct Case {
    batch: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    kv_start: Vec<u32>,
    causal: bool,
    window: Option<usize>,
    alibi_slopes: Option<Vec<f32>>,
    mask: Option<(Vec<u8>, usize)>,
    products: AttentionProducts,
    q: Vec<f32>,
    q_stride: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    batch_stride: usize,
    head_stride: usize,
    token_stride: usize,
    /// The same keys and values in a cache; `None`: attention reads them where they are.
    caches: Option<[HeadCache; 2]>,
}

impl Case {
    fn new(random: &mut Random, batch: usize, tokens: usize, max_start: usize, head_dim: usize) -> Self {
        let kv_heads = 1 + random.below(3);
        let heads = kv_heads * random.choose(&[1, 1, 2, 3, 4]);
        let kv_start: Vec<u32> = (0..batch).map(|_| random.below(max_start + 1) as u32).collect();
        let capacity = max_start + tokens;
        // A cache, or, without a past, the rows of a fused projection.
        let (batch_stride, head_stride, token_stride) = if max_start > 0 || random.below(2) == 0 {
            (kv_heads * capacity * head_dim, capacity * head_dim, head_dim)
        } else {
            let stride = kv_heads * head_dim + random.choose(&[0, 5, 32]);
            (tokens * stride, head_dim, stride)
        };
        let mask = (random.below(3) == 0).then(|| {
            let stride = capacity + random.below(3);
            // Sometimes a sequence of which nothing is visible.
            let blind = random.below(6 * batch);
            let flag =
                |i: usize, random: &mut Random| if i / stride == blind { 0 } else { random.below(3) as u8 };
            ((0..batch * stride).map(|i| flag(i, random)).collect(), stride)
        });
        let q = random.matrix(batch * tokens, heads * head_dim);
        Self {
            batch,
            tokens,
            heads,
            kv_heads,
            head_dim,
            kv_start,
            causal: random.below(2) == 0,
            window: (random.below(3) == 0).then(|| random.below(capacity + 2)),
            alibi_slopes: (random.below(4) == 0).then(|| random.values(heads)),
            mask,
            products: random.choose(&[AttentionProducts::F32, AttentionProducts::Bf16]),
            q_stride: q.stride,
            q: q.data,
            k: random.values(batch * batch_stride),
            v: random.values(batch * batch_stride),
            batch_stride,
            head_stride,
            token_stride,
            caches: None,
        }
    }

    /// The same with keys and values in caches of these formats; they have to lie as in a cache.
    fn cached(mut self, formats: [Format; 2]) -> Self {
        let Self { batch, kv_heads, head_dim, .. } = self;
        let shape = HeadsShape { batch, heads: kv_heads, capacity: self.head_stride / head_dim, head_dim };
        let cache = |format, values: &[f32]| HeadCache::encode(format, shape, values).unwrap();
        self.caches = Some([cache(formats[0], &self.k), cache(formats[1], &self.v)]);
        self
    }

    fn heads(&self) -> [Heads<'_>; 2] {
        let Self { batch_stride, head_stride, token_stride, .. } = *self;
        let view = |data| HeadsView { data, batch_stride, head_stride, token_stride }.into();
        match &self.caches {
            Some([k, v]) => [k.into(), v.into()],
            None => [view(&self.k), view(&self.v)],
        }
    }

    fn args<'a>(&'a self, y: &'a mut [f32]) -> Attention<'a> {
        let (rows, cols) = (self.batch * self.tokens, self.heads * self.head_dim);
        let [k, v] = self.heads();
        let q = Matrix { data: self.q.clone(), rows, cols, stride: self.q_stride }.view().data.len();
        Attention {
            q: joulewise_kernels::args::Rows { data: &self.q[..q], rows, cols, stride: self.q_stride },
            k,
            v,
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            kv_start: &self.kv_start,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            causal: self.causal,
            window: self.window,
            alibi_slopes: self.alibi_slopes.as_deref(),
            mask: self.mask.as_ref().map(|(visible, stride)| Mask { visible, stride: *stride }),
            products: self.products,
            y: RowsMut { data: y, rows, cols },
        }
    }

    fn run(&self, kernels: &CpuKernels) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.batch * self.tokens * self.heads * self.head_dim];
        kernels.attention(self.args(&mut y)).unwrap();
        y
    }

    fn describe(&self) -> String {
        let Self { batch, tokens, heads, kv_heads, head_dim, kv_start, causal, window, .. } = self;
        let (mask, alibi) = (self.mask.is_some(), self.alibi_slopes.is_some());
        let formats = self.caches.as_ref().map(|caches| caches.each_ref().map(HeadCache::format));
        format!(
            "cache={formats:?} batch={batch} tokens={tokens} heads={heads}/{kv_heads} head_dim={head_dim} \
             start={kv_start:?} causal={causal} window={window:?} mask={mask} alibi={alibi} {:?}",
            self.products
        )
    }

    /// `|q| |k| <= 1` element by element, so a score's sum of magnitudes is at most `head_dim`, scaled
    /// `sqrt(head_dim)`; its sum and product round at most `head_dim + 3` times. ALiBi adds a number of at most
    /// `keys`, and rounds the score to that magnitude twice. A weight is off by twice that relatively (itself and
    /// the common maximum), by two ulp of exponential, and by the rounding of its argument, at most the range of
    /// the scores. The weighted sum and the sum of weights round at most `keys + 4` times each. All this is
    /// relative to a weighted mean of `|v| <= 1`.
    ///
    /// Rounded to bf16, a query and a key are off by 2^-9 each: a score by 2^-8 of its sum of magnitudes, and so is the
    /// common maximum; and then a weight and a value by 2^-9 each.
    ///
    /// The elements of a cache are compared as they were rounded; halves widen exactly. Where rows have a scale, it is
    /// multiplied onto every element here and onto a whole score or weight there (or once on widening), one rounding on
    /// either side; and rounded elements exceed 1 by less than a rounding.
    fn tolerance(&self, isa: Isa) -> f64 {
        let d = self.head_dim as f64;
        let keys = f64::from(*self.kv_start.iter().max().unwrap()) + self.tokens as f64;
        let alibi = if self.alibi_slopes.is_some() { keys } else { 0.0 };
        let range = 2.0 * (d.sqrt() + alibi);
        let score = (d + 6.0) * d.sqrt() + 2.0 * (d.sqrt() + alibi);
        let floats = EPSILON * (2.0 * score + range + 7.0 + 2.0 * (keys + 4.0));
        match (isa, self.products) {
            (Isa::Amx, AttentionProducts::Bf16) => floats + (2.0 * d.sqrt() / 256.0).exp_m1() + 1.01 / 256.0,
            _ => floats,
        }
    }

    fn check(&self, kernels: &CpuKernels) {
        let mut expected = vec![0.0; self.batch * self.tokens * self.heads * self.head_dim];
        reference::attention(self.args(&mut expected));
        let what = format!("{} {}", kernels.isa(), self.describe());
        assert_close(&what, &self.run(kernels), &expected, |_| self.tolerance(kernels.isa()));
    }
}

#[test]
fn prefill_matches() {
    for kernels in kernels() {
        let mut random = Random(40);
        for head_dim in [1, 8, 16, 24, 26, 33, 64, 80, 128, 256] {
            for _ in 0..8 {
                let (batch, tokens) = (1 + random.below(3), 1 + random.below(70));
                Case::new(&mut random, batch, tokens, 0, head_dim).check(&kernels);
            }
        }
    }
}

#[test]
fn continued_prefill_matches() {
    for kernels in kernels() {
        let mut random = Random(41);
        for head_dim in [8, 26, 64, 128] {
            for _ in 0..6 {
                let (batch, tokens, past) = (1 + random.below(2), 2 + random.below(40), random.below(200));
                Case::new(&mut random, batch, tokens, past, head_dim).check(&kernels);
            }
        }
    }
}

#[test]
fn decode_matches() {
    for kernels in kernels() {
        let mut random = Random(42);
        for head_dim in [1, 8, 16, 24, 26, 33, 64, 80, 128, 256] {
            for past in [0, 1, 20, 300, 2500] {
                let batch = 1 + random.below(3);
                Case::new(&mut random, batch, 1, past, head_dim).check(&kernels);
            }
        }
    }
}

/// Keys and values in the same format, and each of them in each.
const CACHES: [[Format; 2]; 5] = [
    [Format::F32, Format::F32],
    [Format::F16, Format::F16],
    [Format::Int8, Format::Int8],
    [Format::F16, Format::Int8],
    [Format::Int8, Format::F32],
];

/// Prompts behind a prefix, few queries of a group and single ones, in every format of a cache.
#[test]
fn caches_match() {
    for kernels in kernels() {
        let mut random = Random(45);
        for formats in CACHES {
            for head_dim in [1, 8, 16, 26, 33, 64, 80, 128, 256] {
                for (tokens, past) in [(1, 0), (1, 30), (1, 1200), (2, 90), (5, 700), (40, 150)] {
                    let (batch, tokens) =
                        (1 + random.below(2), 1.max(tokens - random.below(3).min(tokens - 1)));
                    let past = past.max(1);
                    Case::new(&mut random, batch, tokens, past, head_dim).cached(formats).check(&kernels);
                }
            }
        }
    }
}

/// The same bits on any number of threads.
#[test]
fn threads_do_not_matter() {
    for kernels in kernels() {
        let alone = CpuKernels::for_isa(kernels.isa(), ThreadPool::new(1).into()).unwrap();
        let three = CpuKernels::for_isa(kernels.isa(), ThreadPool::new(3).into()).unwrap();
        let mut random = Random(43);
        for (tokens, past) in [(1, 3000), (90, 0), (7, 1000)] {
            let case = Case::new(&mut random, 1, tokens, past, 64);
            let cached = CACHES.iter().filter(|_| past > 0).map(|formats| case.clone().cached(*formats));
            for case in cached.chain([case.clone()]) {
                let y = case.run(&kernels);
                assert_eq!(y, case.run(&alone), "{}", case.describe());
                assert_eq!(y, case.run(&three), "{}", case.describe());
            }
        }
    }
}

/// A sequence's result is the same bits whatever its neighbours in the batch contain.
#[test]
fn neighbours_do_not_matter() {
    for kernels in kernels() {
        let mut random = Random(44);
        for (tokens, past) in [(1, 700), (33, 0)] {
            let mut case = Case::new(&mut random, 3, tokens, past, 64);
            let y = case.run(&kernels);
            let changed = case.batch_stride;
            case.k[..changed].iter_mut().for_each(|k| *k = 3.0 - *k);
            case.kv_start[2] = 0;
            let rows = tokens * case.heads * case.head_dim;
            assert_eq!(y[rows..2 * rows], case.run(&kernels)[rows..2 * rows], "{}", case.describe());
        }
    }
}
