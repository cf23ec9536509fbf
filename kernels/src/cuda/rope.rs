//! Rotary embedding and cache writes. The kernels are in `rope.cu`.

use super::attention::{CacheView, RopeTable};
use super::driver::{DeviceBuffer, Launch};
use super::rows::{elements, threads};
use super::{CudaKernels, DeviceRows, check, float_code};
use crate::error::Result;
use crate::format::Format;

/// Rotates every head of `x [m, heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct RopeArgs<'a> {
    /// Input.
    pub x: DeviceRows<'a>,
    /// Elements of a head.
    pub head_dim: usize,
    /// Angles.
    pub table: &'a RopeTable,
    /// Position of each row.
    pub positions: &'a DeviceBuffer<u32>,
    /// Result, dense.
    pub y: DeviceRows<'a>,
}

/// Copies new keys and values `[batch * tokens, kv_heads * head_dim]` into the cache behind `kv_start`.
#[derive(Clone, Copy, Debug)]
pub struct CacheWriteArgs<'a> {
    /// New keys.
    pub k: DeviceRows<'a>,
    /// New values.
    pub v: DeviceRows<'a>,
    /// New tokens per sequence.
    pub tokens: usize,
    /// Where each sequence continues `[batch]`.
    pub kv_start: &'a DeviceBuffer<u32>,
    /// The cache.
    pub cache: CacheView<'a>,
}

/// [`RopeArgs`] of queries and keys and [`CacheWriteArgs`] at once, keys straight into the cache.
#[derive(Clone, Copy, Debug)]
pub struct RotateArgs<'a> {
    /// Queries.
    pub q: DeviceRows<'a>,
    /// New keys, not rotated yet.
    pub k: DeviceRows<'a>,
    /// New values.
    pub v: DeviceRows<'a>,
    /// Angles.
    pub table: &'a RopeTable,
    /// Position of each row.
    pub positions: &'a DeviceBuffer<u32>,
    /// New tokens per sequence.
    pub tokens: usize,
    /// Where each sequence continues `[batch]`.
    pub kv_start: &'a DeviceBuffer<u32>,
    /// The cache.
    pub cache: CacheView<'a>,
    /// Rotated queries, dense.
    pub y: DeviceRows<'a>,
}

impl CudaKernels {
    /// Whether [`CudaKernels::rotate_and_write`] takes heads like these: 16 bits, rotated as a whole, in halves of whole
    /// 16-byte pieces.
    pub fn can_rotate_and_write(&self, args: &RotateArgs<'_>) -> bool {
        let RotateArgs { q, k, v, table, cache, .. } = *args;
        cache.format != Format::F32
            && table.rotary == cache.head_dim
            && cache.head_dim.is_multiple_of(16)
            && [q, k, v].iter().all(|x| x.format == cache.format && x.is_aligned())
    }

    /// Rotates queries, and keys on their way into the cache.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape), also for what
    /// [`can_rotate_and_write`](Self::can_rotate_and_write) refuses.
    pub fn rotate_and_write(&self, args: &RotateArgs<'_>) -> Result<()> {
        const OP: &str = "rotate_and_write";
        let RotateArgs { q, k, v, table, positions, tokens, kv_start, cache, y } = *args;
        let CacheView { kv_heads, head_dim, batch, capacity, .. } = cache;
        check::equal(OP, "operands that are not aligned", 0, usize::from(!self.can_rotate_and_write(args)))?;
        check::rows(OP, "q", &q)?;
        check::dense(OP, "y", &y)?;
        check::same(OP, "q", &q, &y)?;
        check::type_of(OP, cache.format, &y)?;
        check::equal(OP, "rows of q", batch * tokens, q.rows)?;
        check::equal(OP, "columns beyond whole heads", 0, q.cols % head_dim)?;
        for (what, x) in [("k", &k), ("v", &v)] {
            check::rows(OP, what, x)?;
            check::equal(OP, "rows of keys and values", batch * tokens, x.rows)?;
            check::equal(OP, "columns of keys and values", kv_heads * head_dim, x.cols)?;
        }
        check::at_least(OP, "positions", q.rows, positions.len())?;
        check::at_least(OP, "kv_start", batch, kv_start.len())?;
        cache.check(OP)?;
        let heads = q.cols / head_dim;
        let mut launch = Launch::new(&self.stream, self.function("rope.cu", "rotate_and_write")?);
        for x in [&q, &k, &v] {
            launch = launch.memory(x.data, x.offset * x.element_bytes()).int(x.stride);
        }
        let launch = launch
            .int(float_code(cache.format))
            .int(batch)
            .int(tokens)
            .int(heads)
            .int(kv_heads)
            .int(head_dim)
            .buffer(&table.cos, 0)
            .buffer(&table.sin, 0)
            .int(table.rows())
            .buffer(positions, 0)
            .buffer(kv_start, 0)
            .int(capacity)
            .memory(y.data, y.offset * y.element_bytes())
            .buffer(cache.keys, 0)
            .buffer(cache.values, 0);
        let pieces = q.rows * (heads + 2 * kv_heads) * (head_dim / 16);
        // SAFETY: one thread per 16 elements, the kernel drops those beyond and tokens behind the capacity, and clamps
        // positions to the table; shapes were checked.
        Ok(unsafe { launch.submit(threads(pieces)?, 256, 0, true) }?)
    }

    /// Rotates queries or keys by their positions.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape).
    pub fn rope(&self, args: &RopeArgs<'_>) -> Result<()> {
        let RopeArgs { x, head_dim, table, positions, y } = *args;
        check::rows("rope", "x", &x)?;
        check::dense("rope", "y", &y)?;
        check::same("rope", "x", &x, &y)?;
        check::type_of("rope", x.format, &y)?;
        check::at_least("rope", "head size", 1, head_dim)?;
        check::equal("rope", "columns beyond whole heads", 0, x.cols % head_dim)?;
        check::at_most("rope", "rotated dimensions", head_dim, table.rotary)?;
        check::at_least("rope", "positions", x.rows, positions.len())?;
        let launch = Launch::new(&self.stream, self.function("rope.cu", "rope")?)
            .rows(&x)
            .int(x.rows)
            .int(x.cols / head_dim)
            .int(head_dim)
            .buffer(&table.cos, 0)
            .buffer(&table.sin, 0)
            .int(table.rows())
            .int(table.rotary)
            .buffer(positions, 0)
            .memory(y.data, y.offset * y.element_bytes());
        // SAFETY: one thread per element, the kernel drops those beyond and clamps positions to the table.
        Ok(unsafe { launch.submit(elements(&y)?, 256, 0, true) }?)
    }

    /// Copies new keys and values into a cache.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape).
    pub fn cache_write(&self, args: &CacheWriteArgs<'_>) -> Result<()> {
        let CacheWriteArgs { k, v, tokens, kv_start, cache } = *args;
        let CacheView { kv_heads, head_dim, batch, capacity, .. } = cache;
        for (what, x) in [("k", &k), ("v", &v)] {
            check::rows("cache_write", what, x)?;
            check::type_of("cache_write", cache.format, x)?;
            check::equal("cache_write", "rows of keys and values", batch * tokens, x.rows)?;
            check::equal("cache_write", "columns of keys and values", kv_heads * head_dim, x.cols)?;
        }
        check::at_least("cache_write", "kv_start", batch, kv_start.len())?;
        cache.check("cache_write")?;
        let name = match cache.format {
            Format::F32 => "cache_write_f32",
            Format::F16 => "cache_write_f16",
            Format::Bf16 => "cache_write_bf16",
            format => return Err(crate::KernelError::NoKernel { op: "cache_write", format }),
        };
        let launch = Launch::new(&self.stream, self.function("rope.cu", name)?)
            .memory(k.data, k.offset * k.element_bytes())
            .int(k.stride)
            .memory(v.data, v.offset * v.element_bytes())
            .int(v.stride)
            .int(batch)
            .int(tokens)
            .int(kv_heads)
            .int(head_dim)
            .int(capacity)
            .buffer(kv_start, 0)
            .buffer(cache.keys, 0)
            .buffer(cache.values, 0);
        // SAFETY: one thread per element, the kernel drops those beyond and tokens behind the capacity.
        Ok(unsafe { launch.submit(elements(&k)?, 256, 0, true) }?)
    }
}
