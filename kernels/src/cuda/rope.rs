//! Rotary embedding and cache writes. The kernels are in `rope.cu`.

use super::attention::{CacheView, RopeTable};
use super::driver::{DeviceBuffer, Launch};
use super::rows::elements;
use super::{CudaKernels, DeviceRows, check};
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

impl CudaKernels {
    /// Rotates queries or keys by their positions.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape).
    pub fn rope(&self, args: &RopeArgs<'_>) -> Result<()> {
        let RopeArgs { x, head_dim, table, positions, y } = *args;
        check::rows("rope", "x", &x)?;
        check::dense("rope", "y", &y)?;
        check::same("rope", "x", &x, &y)?;
        check::at_least("rope", "head size", 1, head_dim)?;
        check::equal("rope", "columns beyond whole heads", 0, x.cols % head_dim)?;
        check::at_most("rope", "rotated dimensions", head_dim, table.rotary)?;
        check::at_least("rope", "positions", x.rows, positions.len())?;
        let launch = Launch::new(&self.stream, self.function("rope.cu", "rope")?)
            .buffer(x.data, x.offset)
            .int(x.stride)
            .int(x.rows)
            .int(x.cols / head_dim)
            .int(head_dim)
            .buffer(&table.cos, 0)
            .buffer(&table.sin, 0)
            .int(table.rows())
            .int(table.rotary)
            .buffer(positions, 0)
            .buffer(y.data, y.offset);
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
            .buffer(k.data, k.offset)
            .int(k.stride)
            .buffer(v.data, v.offset)
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
