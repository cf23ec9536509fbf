//! Shape checks, done once per operation; the unsafe code below relies on them.
//!
//! Sizes are multiplied with overflow checks: an absurd stride must be an error, not a small number.

use crate::args::{HeadsView, Mask, Rows, RowsMut};
use crate::error::{KernelError, Result};

pub(super) fn equal(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(KernelError::Shape { op, what, expected, got }) }
}

pub(super) fn at_least(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if got >= expected { Ok(()) } else { Err(KernelError::Shape { op, what, expected, got }) }
}

pub(super) fn index(op: &'static str, index: usize, rows: usize) -> Result<()> {
    if index < rows { Ok(()) } else { Err(KernelError::Index { op, index, rows }) }
}

/// `a * b`, or `usize::MAX`, which no slice is as long as.
pub(super) fn product(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

/// Every element of the view lies inside `data`.
pub(super) fn rows(op: &'static str, what: &'static str, x: &Rows<'_>) -> Result<()> {
    if x.rows == 0 || x.cols == 0 {
        return Ok(());
    }
    if x.rows > 1 {
        at_least(op, what, x.cols, x.stride)?;
    }
    at_least(op, what, product(x.rows - 1, x.stride).saturating_add(x.cols), x.data.len())
}

/// Every element of the result lies inside `data`.
pub(super) fn rows_mut(op: &'static str, y: &RowsMut<'_>) -> Result<()> {
    at_least(op, "y", product(y.rows, y.cols), y.data.len())
}

/// Both sizes agree.
pub(super) fn same_shape(
    op: &'static str,
    what: [&'static str; 2],
    x: &Rows<'_>,
    shape: [usize; 2],
) -> Result<()> {
    equal(op, what[0], shape[0], x.rows)?;
    equal(op, what[1], shape[1], x.cols)
}

/// Heads `0..heads` of tokens `0..tokens` of sequence `b` lie inside `data`.
pub(super) fn heads_view(
    op: &'static str,
    what: &'static str,
    view: &HeadsView<'_>,
    b: usize,
    [heads, tokens, head_dim]: [usize; 3],
) -> Result<()> {
    if heads == 0 || tokens == 0 || head_dim == 0 {
        return Ok(());
    }
    let last = product(b, view.batch_stride)
        .saturating_add(product(heads - 1, view.head_stride))
        .saturating_add(product(tokens - 1, view.token_stride));
    at_least(op, what, last.saturating_add(head_dim), view.data.len())
}

/// The flags of tokens `0..tokens` of sequence `b` exist.
pub(super) fn mask(op: &'static str, mask: &Mask<'_>, b: usize, tokens: usize) -> Result<()> {
    if tokens == 0 {
        return Ok(());
    }
    at_least(op, "mask stride", tokens, mask.stride)?;
    at_least(op, "mask", product(b, mask.stride).saturating_add(tokens), mask.visible.len())
}
