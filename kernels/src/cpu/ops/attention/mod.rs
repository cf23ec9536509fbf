//! Attention: checks, what a query sees, and the choice between two ways.
//!
//! - [`prefill`]: many queries share packed keys and values, and the [`products`] run as panels or on tiles.
//! - [`decode`]: a few queries stream keys and values as they lie in the cache.
//!
//! Both go through the keys in blocks at fixed places and keep a running maximum and sum for each query
//! (Milakov and Gimelshein 2018), so a result depends neither on the number of threads nor on neighbours.

mod decode;
mod prefill;
mod products;

use std::ops::Range;

use crate::args::{Attention, AttentionProducts, Heads, HeadsShape, Mask, Rows};
use crate::cpu::op_table::{FloatRows, OpTable, TokenData, TokenRows};
use crate::cpu::{CpuKernels, check};
use crate::error::{KernelError, Result};
use crate::format::Format;

const OP: &str = "attention";

/// Queries that share a key-value head from which on packing its keys pays.
const PREFILL_QUERIES: usize = 9;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: Attention<'_>) -> Result<()> {
    check(&args)?;
    if args.batch == 0 || args.tokens == 0 || args.heads == 0 || args.head_dim == 0 {
        return Ok(());
    }
    let Attention { q, k, v, batch, tokens, heads, kv_heads, head_dim, kv_start, .. } = args;
    let Attention { scale, causal, window, alibi_slopes, mask, products, y, .. } = args;
    let group = heads / kv_heads;
    let inputs = Inputs {
        q,
        k,
        v,
        batch,
        tokens,
        heads,
        kv_heads,
        group,
        head_dim,
        kv_start,
        scale,
        causal,
        window,
        alibi_slopes,
        mask,
        products,
    };
    let y = &mut y.data[..batch * tokens * heads * head_dim];
    if tokens.saturating_mul(group) < PREFILL_QUERIES {
        decode::run(kernels, &inputs, y);
    } else {
        prefill::run(kernels, &inputs, y);
    }
    Ok(())
}

fn check(args: &Attention<'_>) -> Result<()> {
    let Attention { q, k, v, batch, tokens, heads, kv_heads, head_dim, y, .. } = args;
    let (m, n) = (check::product(*batch, *tokens), check::product(*heads, *head_dim));
    check::rows(OP, "q", q)?;
    check::rows_mut(OP, y)?;
    check::same_shape(OP, ["rows of q", "columns of q"], q, [m, n])?;
    check::equal(OP, "rows of y", m, y.rows)?;
    check::equal(OP, "columns of y", n, y.cols)?;
    check::equal(OP, "kv_start", *batch, args.kv_start.len())?;
    if *kv_heads == 0 || heads % kv_heads != 0 {
        return Err(KernelError::Shape { op: OP, what: "kv_heads", expected: *heads, got: *kv_heads });
    }
    if let Some(slopes) = args.alibi_slopes {
        check::equal(OP, "alibi_slopes", *heads, slopes.len())?;
    }
    for (b, start) in args.kv_start.iter().enumerate() {
        let keys = (*start as usize).saturating_add(*tokens);
        heads_hold("k", k, b, [*kv_heads, keys, *head_dim])?;
        heads_hold("v", v, b, [*kv_heads, keys, *head_dim])?;
        if let Some(mask) = &args.mask {
            check::mask(OP, mask, b, keys)?;
        }
    }
    Ok(())
}

/// Heads `0..kv_heads` of tokens `0..keys` of sequence `b` are there.
fn heads_hold(
    what: &'static str,
    heads: &Heads<'_>,
    b: usize,
    [kv_heads, keys, d]: [usize; 3],
) -> Result<()> {
    match heads {
        Heads::Strided(view) => check::heads_view(OP, what, view, b, [kv_heads, keys, d]),
        Heads::Cached(cache) => {
            let HeadsShape { batch, heads, capacity, head_dim } = cache.shape();
            check::at_least(OP, "sequences of the cache", b + 1, batch)?;
            check::equal(OP, "heads of the cache", kv_heads, heads)?;
            check::equal(OP, "head size of the cache", d, head_dim)?;
            check::at_least(OP, "capacity of the cache", keys, capacity)
        }
    }
}

/// The arguments without the result, checked and none of them empty.
struct Inputs<'a> {
    q: Rows<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    batch: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    /// Query heads per key-value head.
    group: usize,
    head_dim: usize,
    kv_start: &'a [u32],
    scale: f32,
    causal: bool,
    window: Option<usize>,
    alibi_slopes: Option<&'a [f32]>,
    mask: Option<Mask<'a>>,
    products: AttentionProducts,
}

impl Inputs<'_> {
    /// Keys of sequence `b`.
    fn keys(&self, b: usize) -> usize {
        self.kv_start[b] as usize + self.tokens
    }

    /// The factor of the key's number in the scores of head `h`.
    fn slope(&self, h: usize) -> f32 {
        self.alibi_slopes.map_or(0.0, |slopes| slopes[h])
    }
}

/// One key-value head of one sequence, and the query heads that share it.
struct KeyValueHead<'a> {
    keys: TokenRows<'a>,
    values: TokenRows<'a>,
    /// Keys that exist.
    count: usize,
    /// Position of the first query.
    start: usize,
    /// The first of the query heads.
    first_head: usize,
    /// Which keys may be seen.
    mask: Option<&'a [u8]>,
    causal: bool,
    window: Option<usize>,
}

impl<'a> KeyValueHead<'a> {
    fn new(inputs: &Inputs<'a>, b: usize, kv_head: usize) -> Self {
        let count = inputs.keys(b);
        let rows = |heads: Heads<'a>| match heads {
            Heads::Strided(view) => {
                let first = b * view.batch_stride + kv_head * view.head_stride;
                FloatRows { data: &view.data[first..], stride: view.token_stride }.into()
            }
            Heads::Cached(cache) => cache.head(b, kv_head),
        };
        Self {
            keys: rows(inputs.k),
            values: rows(inputs.v),
            count,
            start: inputs.kv_start[b] as usize,
            first_head: kv_head * inputs.group,
            mask: inputs.mask.map(|mask| &mask.visible[b * mask.stride..][..count]),
            causal: inputs.causal,
            window: inputs.window,
        }
    }

    /// The keys that query `i` may see by its position, the mask aside. Both ends grow with `i`.
    fn visible(&self, i: usize) -> Range<usize> {
        let position = self.start + i;
        let end = if self.causal { self.count.min(position + 1) } else { self.count };
        match self.window {
            Some(window) => {
                let end = end.min(position.saturating_add(window));
                (position + 1).saturating_sub(window).min(end)..end
            }
            None => 0..end,
        }
    }
}

/// Elements of memory that [`floats`] needs for `rows` rows of `d` elements.
fn wide_len(heads: &Heads<'_>, rows: usize, d: usize) -> usize {
    match heads {
        Heads::Cached(cache) if cache.format() != Format::F32 => rows * d,
        _ => 0,
    }
}

/// Some rows of `d` elements in `f32`: where they lie, or else widened into `wide`.
fn floats<'a>(
    table: &OpTable,
    rows: TokenRows<'a>,
    range: Range<usize>,
    d: usize,
    wide: &'a mut [f32],
) -> FloatRows<'a> {
    let TokenRows { data, stride, .. } = rows.skip(range.start);
    if let TokenData::F32(data) = data {
        return FloatRows { data, stride };
    }
    let wide = &mut wide[..range.len() * d];
    // SAFETY: a `CpuKernels` exists, so the processor has the instruction set.
    unsafe { (table.widen_rows)(rows.skip(range.start), d, wide) };
    FloatRows { data: wide, stride: d }
}
