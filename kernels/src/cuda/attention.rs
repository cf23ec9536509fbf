//! Attention, over many queries and over one. The kernels are in `attention.cu` and `attention_decode.cu`.

use std::sync::Arc;

use super::driver::{Context, DeviceBuffer, Launch};
use super::{CudaKernels, DeviceRows, check};
use crate::error::{KernelError, Result};
use crate::format::Format;

/// Keys of a chunk in `attention_decode.cu`.
const CHUNK: usize = 32;
const DECODE_THREADS: usize = 256;
/// Chunks that are weighted at once when they are merged.
const MERGED_CHUNKS: usize = 128;
const LARGEST_HEAD: usize = 256;

/// Rotary angles on the device.
#[derive(Debug)]
pub struct RopeTable {
    pub(super) cos: DeviceBuffer<f32>,
    pub(super) sin: DeviceBuffer<f32>,
    pub(super) rotary: usize,
}

impl RopeTable {
    /// `cos` and `sin` are `[positions, rotary / 2]`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when they are not.
    pub fn new(context: &Arc<Context>, cos: &[f32], sin: &[f32], rotary: usize) -> Result<Self> {
        check::at_least("rope", "rotated dimensions", 2, rotary)?;
        check::equal("rope", "length of the sines", cos.len(), sin.len())?;
        check::at_least("rope", "length of the cosines", rotary / 2, cos.len())?;
        let cos = DeviceBuffer::from_slice(context, cos)?;
        Ok(Self { cos, sin: DeviceBuffer::from_slice(context, sin)?, rotary })
    }

    pub(super) fn rows(&self) -> usize {
        self.cos.len() / (self.rotary / 2)
    }
}

/// Keys and values of one layer, `[batch, kv_heads, capacity, head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct CacheView<'a> {
    /// Keys.
    pub keys: &'a DeviceBuffer<u8>,
    /// Values.
    pub values: &'a DeviceBuffer<u8>,
    /// Format of their elements.
    pub format: Format,
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub kv_heads: usize,
    /// Tokens a sequence can hold.
    pub capacity: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl CacheView<'_> {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let needed =
            self.format.spec().encoded_bytes(self.batch * self.kv_heads * self.capacity, self.head_dim);
        check::at_least(op, "bytes of the cached keys", needed, self.keys.len())?;
        check::at_least(op, "bytes of the cached values", needed, self.values.len())?;
        check::at_most(op, "cached elements per sequence", i32::MAX as usize, needed / self.batch.max(1))
    }
}

/// What the queries are compared with.
#[derive(Clone, Copy, Debug)]
pub enum KeyValues<'a> {
    /// Projections of the same tokens, `[batch * tokens, kv_heads * head_dim]`.
    Projected {
        /// Keys.
        k: DeviceRows<'a>,
        /// Values.
        v: DeviceRows<'a>,
    },
    /// The cache, which holds the new tokens already.
    Cached(CacheView<'a>),
}

/// `y = softmax(scale q k^T + bias, masked) v`, as [`crate::args::Attention`] defines it.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    /// Queries `[batch * tokens, heads * head_dim]`.
    pub q: DeviceRows<'a>,
    /// Keys and values.
    pub kv: KeyValues<'a>,
    /// Queries per sequence.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Keys in front of the first query `[batch]`.
    pub kv_start: &'a DeviceBuffer<u32>,
    /// Multiplied onto the scores.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Sliding window in tokens.
    pub window: Option<usize>,
    /// ALiBi slopes `[heads]`.
    pub slopes: Option<&'a DeviceBuffer<f32>>,
    /// Visible keys `[batch, tokens]`.
    pub mask: Option<&'a DeviceBuffer<u8>>,
    /// Result, dense. Queries, keys, values and result are of one type.
    pub y: DeviceRows<'a>,
}

/// Memory that decoding uses between its blocks; one launch at a time.
#[derive(Debug)]
pub struct DecodeScratch {
    partials: DeviceBuffer<f32>,
    counters: DeviceBuffer<u32>,
}

impl DecodeScratch {
    /// For caches of this size.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`](super::driver::CudaError::OutOfMemory).
    pub fn new(
        context: &Arc<Context>,
        batch: usize,
        heads: usize,
        head_dim: usize,
        capacity: usize,
    ) -> Result<Self> {
        let partials = batch * heads * capacity.div_ceil(CHUNK) * chunk_pitch(decode_lanes(head_dim));
        Ok(Self {
            partials: DeviceBuffer::zeros(context, partials)?,
            counters: DeviceBuffer::zeros(context, batch * heads)?,
        })
    }
}

/// One new token per sequence: optionally rotates queries and keys and writes the cache, then attends to it.
#[derive(Clone, Copy, Debug)]
pub struct DecodeArgs<'a> {
    /// Queries `[batch, heads * head_dim]`.
    pub q: DeviceRows<'a>,
    /// New keys and values to be written first; `None` when the cache has them already.
    pub new: Option<(DeviceRows<'a>, DeviceRows<'a>)>,
    /// Rotates queries, and new keys if there are any.
    pub rope: Option<(&'a RopeTable, &'a DeviceBuffer<u32>)>,
    /// The cache.
    pub cache: CacheView<'a>,
    /// Query heads.
    pub heads: usize,
    /// Tokens in front of the new one `[batch]`.
    pub kv_start: &'a DeviceBuffer<u32>,
    /// Multiplied onto the scores.
    pub scale: f32,
    /// Sliding window in tokens.
    pub window: Option<usize>,
    /// ALiBi slopes `[heads]`.
    pub slopes: Option<&'a DeviceBuffer<f32>>,
    /// Memory between blocks.
    pub scratch: &'a DecodeScratch,
    /// Result, dense.
    pub y: DeviceRows<'a>,
}

impl CudaKernels {
    /// Attention of any number of queries.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn attention(&self, args: &AttentionArgs<'_>) -> Result<()> {
        const OP: &str = "attention";
        let AttentionArgs { q, kv, tokens, heads, kv_heads, head_dim, kv_start, y, .. } = *args;
        check::rows(OP, "q", &q)?;
        check::dense(OP, "y", &y)?;
        check::same(OP, "q", &q, &y)?;
        check::equal(OP, "columns of q", heads * head_dim, q.cols)?;
        check::at_most(OP, "head size", LARGEST_HEAD, head_dim)?;
        check::at_least(OP, "key-value heads", 1, kv_heads)?;
        check::equal(OP, "heads beyond whole groups", 0, heads % kv_heads)?;
        check::at_least(OP, "tokens", 1, tokens)?;
        let batch = q.rows / tokens;
        check::equal(OP, "rows of q", batch * tokens, q.rows)?;
        check::at_most(OP, "sequences", 65535, batch.max(heads))?;
        check::at_least(OP, "kv_start", batch, kv_start.len())?;
        check::vector(OP, "slopes", heads, args.slopes)?;
        check::vector(OP, "mask", q.rows, args.mask)?;
        let (format, capacity) = match kv {
            KeyValues::Projected { k, v } => {
                for (what, x) in [("k", &k), ("v", &v)] {
                    check::rows(OP, what, x)?;
                    check::type_of(OP, q.format, x)?;
                    check::equal(OP, "rows of keys and values", q.rows, x.rows)?;
                    check::equal(OP, "columns of keys and values", kv_heads * head_dim, x.cols)?;
                    check::at_most(OP, "elements of a sequence", i32::MAX as usize, tokens * x.stride)?;
                }
                (q.format, tokens)
            }
            KeyValues::Cached(cache) => {
                cache.check(OP)?;
                check::equal(OP, "sequences of the cache", batch, cache.batch)?;
                check::equal(OP, "heads of the cache", kv_heads, cache.kv_heads)?;
                check::equal(OP, "head size of the cache", head_dim, cache.head_dim)?;
                (cache.format, cache.capacity)
            }
        };
        check::type_of(OP, format, &q)?;
        check::type_of(OP, format, &y)?;
        let width = if head_dim <= 64 {
            64
        } else if head_dim <= 128 {
            128
        } else {
            256
        };
        let uses_tensor_cores = format != Format::F32
            && width <= 128
            && tokens > 1
            && self.context().compute_capability() >= (8, 0);
        let is_aligned = head_dim.is_multiple_of(8)
            && q.is_aligned()
            && match &kv {
                KeyValues::Projected { k, v } => k.is_aligned() && v.is_aligned(),
                KeyValues::Cached(_) => true,
            };
        let is_hopper = uses_tensor_cores && is_aligned && self.context().compute_capability() == (9, 0);
        let (file, kernel) = match (is_hopper, uses_tensor_cores) {
            (true, _) => ("attention_hopper.cu", "attention_hopper"),
            (false, true) => ("attention_mma.cu", "attention_mma"),
            (false, false) => ("attention.cu", "attention"),
        };
        let name = format!("{kernel}_{format}_{width}");
        let launch = Launch::new(&self.stream, self.function(file, &name)?);
        let launch = launch.memory(q.data, q.offset * q.element_bytes()).int(q.stride);
        let launch = match kv {
            KeyValues::Projected { k, v } => launch
                .memory(k.data, k.offset * k.element_bytes())
                .memory(v.data, v.offset * v.element_bytes())
                .int(tokens * k.stride)
                .int(head_dim)
                .int(k.stride)
                .int(tokens * v.stride)
                .int(head_dim)
                .int(v.stride),
            KeyValues::Cached(cache) => {
                let strides = [kv_heads * capacity * head_dim, capacity * head_dim, head_dim];
                let launch = launch.buffer(cache.keys, 0).buffer(cache.values, 0);
                [strides, strides].as_flattened().iter().fold(launch, |launch, stride| launch.int(*stride))
            }
        };
        let launch = launch
            .int(tokens)
            .int(heads)
            .int(kv_heads)
            .int(head_dim)
            .buffer(kv_start, 0)
            .int(capacity)
            .float(args.scale)
            .int(usize::from(args.causal))
            .int(window_code(OP, args.window)?)
            .optional(args.slopes)
            .optional(args.mask)
            .int(tokens)
            .memory(y.data, y.offset * y.element_bytes());
        // In 16 bits queries and a tile of keys and of values, on Hopper two of each; or queries, one tile and the weights in f32.
        let (queries, threads, shared_bytes) = match (is_hopper, uses_tensor_cores) {
            (true, _) => (128, 256, (128 + 4 * 64) * width * 2),
            (false, true) => (128, 256, (128 + 2 * 64) * (width + 8) * 2),
            (false, false) => (32, 256, (64 * (head_dim + 1) + 32 * 33) * size_of::<f32>()),
        };
        let launch =
            if uses_tensor_cores && !is_hopper { launch.int(usize::from(is_aligned)) } else { launch };
        self.fits(OP, shared_bytes)?;
        let grid = [tokens.div_ceil(queries), heads, batch];
        // SAFETY: blocks cover the queries of each head, the kernel drops those beyond `tokens` and keys beyond
        // `capacity`; shapes were checked and the shared memory is what the kernel lays out.
        Ok(unsafe { launch.submit(grid, threads, shared_bytes, true) }?)
    }

    /// Attention of one new token per sequence.
    ///
    /// # Errors
    /// [`KernelError::Shape`].
    pub fn attention_decode(&self, args: &DecodeArgs<'_>) -> Result<()> {
        const OP: &str = "attention_decode";
        let DecodeArgs { q, new, rope, cache, heads, kv_start, y, scratch, .. } = *args;
        let CacheView { batch, kv_heads, capacity, head_dim, format, .. } = cache;
        check::rows(OP, "q", &q)?;
        check::dense(OP, "y", &y)?;
        check::same(OP, "q", &q, &y)?;
        check::type_of(OP, format, &q)?;
        check::type_of(OP, format, &y)?;
        check::equal(OP, "rows of q", batch, q.rows)?;
        check::equal(OP, "columns of q", heads * head_dim, q.cols)?;
        check::at_most(OP, "head size", LARGEST_HEAD, head_dim)?;
        check::at_least(OP, "key-value heads", 1, kv_heads)?;
        check::equal(OP, "heads beyond whole groups", 0, heads % kv_heads)?;
        check::at_least(OP, "kv_start", batch, kv_start.len())?;
        check::vector(OP, "slopes", heads, args.slopes)?;
        cache.check(OP)?;
        check::at_most(OP, "sequences", 65535, batch.max(heads))?;
        let max_chunks = capacity.div_ceil(CHUNK);
        let lanes = decode_lanes(head_dim);
        let partials = batch * heads * max_chunks * chunk_pitch(lanes);
        check::at_least(OP, "partial results", partials, scratch.partials.len())?;
        check::at_least(OP, "counters", batch * heads, scratch.counters.len())?;
        if let Some((k, v)) = &new {
            for (what, x) in [("k", k), ("v", v)] {
                check::rows(OP, what, x)?;
                check::type_of(OP, format, x)?;
                check::equal(OP, "rows of keys and values", batch, x.rows)?;
                check::equal(OP, "columns of keys and values", kv_heads * head_dim, x.cols)?;
            }
        }
        if let Some((table, positions)) = rope {
            check::at_most(OP, "rotated dimensions", head_dim, table.rotary)?;
            check::at_least(OP, "positions", batch, positions.len())?;
        }
        let in_group = heads / kv_heads;
        let most = if format == Format::F32 || lanes > 16 { 4 } else { 8 };
        let group = if in_group == 1 { 1 } else { in_group.next_power_of_two().clamp(4, most) };
        let parts = in_group.div_ceil(group);
        let name = format!("attention_decode_{format}_{group}_{lanes}");
        let (k, v) = new.unwrap_or((q, q));
        let launch = Launch::new(&self.stream, self.function("attention_decode.cu", &name)?)
            .memory(q.data, q.offset * q.element_bytes())
            .int(q.stride)
            .memory(k.data, k.offset * k.element_bytes())
            .int(k.stride)
            .memory(v.data, v.offset * v.element_bytes())
            .int(v.stride)
            .buffer(cache.keys, 0)
            .buffer(cache.values, 0)
            .int(heads)
            .int(kv_heads)
            .int(head_dim)
            .int(capacity)
            .buffer(kv_start, 0)
            .float(args.scale)
            .int(window_code(OP, args.window)?)
            .optional(args.slopes)
            .optional(rope.map(|(table, _)| &table.cos))
            .optional(rope.map(|(table, _)| &table.sin))
            .int(rope.map_or(0, |(table, _)| table.rows()))
            .int(rope.map_or(0, |(table, _)| table.rotary))
            .optional(rope.map(|(_, positions)| positions))
            .int(usize::from(new.is_some()))
            .buffer(&scratch.partials, 0)
            .int(max_chunks)
            .buffer(&scratch.counters, 0)
            .memory(y.data, y.offset * y.element_bytes());
        // Enough blocks for four on each multiprocessor, whatever the cache can hold; more would find nothing to do.
        let wanted = (4 * self.context().multiprocessors()).div_ceil(kv_heads * parts * batch);
        let padded = lanes * 8;
        let chunk = group * padded + group * CHUNK + DECODE_THREADS / 32 * group * padded + 2 * padded;
        let merged = group * MERGED_CHUNKS + 4 * DECODE_THREADS;
        let floats = chunk.max(merged);
        self.fits(OP, floats * size_of::<f32>())?;
        let grid = [kv_heads * parts, max_chunks.min(wanted), batch];
        // SAFETY: blocks take chunks of existing keys in turns, whatever their number; the kernel clamps lengths to the
        // capacity; shapes were checked and the shared memory is what the kernel lays out.
        Ok(unsafe { launch.submit(grid, DECODE_THREADS, floats * size_of::<f32>(), true) }?)
    }

    pub(super) fn fits(&self, op: &'static str, shared_bytes: usize) -> Result<()> {
        // Kernels use up to a kilobyte besides.
        let limit = self.context().shared_memory_bytes() - 1024;
        check::at_most(op, "shared memory", limit, shared_bytes)
    }
}

/// Threads that share a key, eight dimensions each.
fn decode_lanes(head_dim: usize) -> usize {
    head_dim.div_ceil(8).next_power_of_two().max(8)
}

/// Numbers that a chunk of keys leaves for a head: a sum for each dimension, the largest score, the sum of the weights, and
/// two that keep the next one's aligned.
fn chunk_pitch(lanes: usize) -> usize {
    lanes * 8 + 4
}

fn window_code(op: &'static str, window: Option<usize>) -> Result<usize> {
    match window {
        None => Ok(0),
        // Positions and windows are added in 32 signed bits.
        Some(window) if (1..1 << 30).contains(&window) => Ok(window),
        Some(got) => Err(KernelError::Shape { op, what: "window", expected: (1 << 30) - 1, got }),
    }
}
