//! Attention: checks, and heads and blocks of queries shared out among threads.

use crate::args::Attention;
use crate::cpu::op_table::AttentionBlock;
use crate::cpu::output::Output;
use crate::cpu::{CpuKernels, check};
use crate::error::{KernelError, Result};

const OP: &str = "attention";

/// Queries of a task.
const QUERY_BLOCK: usize = 32;

pub(in crate::cpu) fn run(kernels: &CpuKernels, args: Attention<'_>) -> Result<()> {
    check(&args)?;
    let Attention { q, k, v, batch, tokens, heads, kv_heads, head_dim, .. } = args;
    if batch == 0 || tokens == 0 || heads == 0 || head_dim == 0 {
        return Ok(());
    }
    let n = heads * head_dim;
    let output = Output::new(&mut args.y.data[..batch * tokens * n]);
    let blocks = tokens.div_ceil(QUERY_BLOCK);
    kernels.pool.run(batch * heads * blocks, &|task| {
        let (b, h, block) = (task / blocks / heads, task / blocks % heads, task % blocks);
        let first = block * QUERY_BLOCK;
        let queries = QUERY_BLOCK.min(tokens - first);
        let start = args.kv_start[b] as usize;
        let kv_head = h / (heads / kv_heads);
        let r = b * tokens + first;
        let block = AttentionBlock {
            q: &q.data[r * q.stride + h * head_dim..],
            q_stride: q.stride,
            queries,
            head_dim,
            k: &k.data[b * k.batch_stride + kv_head * k.head_stride..],
            k_stride: k.token_stride,
            v: &v.data[b * v.batch_stride + kv_head * v.head_stride..],
            v_stride: v.token_stride,
            keys: start + tokens,
            position: start + first,
            scale: args.scale,
            causal: args.causal,
            window: args.window,
            alibi_slope: args.alibi_slopes.map_or(0.0, |slopes| slopes[h]),
            mask: args.mask.map(|mask| &mask.visible[b * mask.stride..][..start + tokens]),
            y: output.pointer().wrapping_add(r * n + h * head_dim),
            y_stride: n,
        };
        // SAFETY: `kernels` exists, so the processor has the instruction set. The views hold the block's queries
        // and all its keys and values (`check`), and no other task writes these rows of this head.
        unsafe { (kernels.table.attention)(&block) };
    });
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
        check::heads_view(OP, "k", k, b, [*kv_heads, keys, *head_dim])?;
        check::heads_view(OP, "v", v, b, [*kv_heads, keys, *head_dim])?;
        if let Some(mask) = &args.mask {
            check::mask(OP, mask, b, keys)?;
        }
    }
    Ok(())
}
