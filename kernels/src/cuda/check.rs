//! Shape checks before a launch; the kernels rely on them.

use super::driver::{DeviceBuffer, Plain};
use super::matrix::DeviceRows;
use crate::error::{KernelError, Result};

/// Kernels count rows and columns in 32 signed bits.
const LARGEST: usize = i32::MAX as usize;

pub(super) fn equal(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(KernelError::Shape { op, what, expected, got }) }
}

pub(super) fn at_least(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if got >= expected { Ok(()) } else { Err(KernelError::Shape { op, what, expected, got }) }
}

pub(super) fn at_most(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if got <= expected { Ok(()) } else { Err(KernelError::Shape { op, what, expected, got }) }
}

/// The view lies inside its buffer.
pub(super) fn rows(op: &'static str, what: &'static str, x: &DeviceRows<'_>) -> Result<()> {
    at_least(op, what, 1, x.rows.min(x.cols))?;
    at_most(op, what, LARGEST, x.rows.max(x.stride).max(x.cols))?;
    if x.rows > 1 {
        at_least(op, what, x.cols, x.stride)?;
    }
    let len = x.data.size_bytes() / x.element_bytes();
    at_least(op, what, x.offset + (x.rows - 1) * x.stride + x.cols, len)
}

/// The view lies inside its buffer and has no gaps.
pub(super) fn dense(op: &'static str, what: &'static str, y: &DeviceRows<'_>) -> Result<()> {
    rows(op, what, y)?;
    equal(op, what, y.cols, y.stride)
}

/// Both views have the same shape.
pub(super) fn same(
    op: &'static str,
    what: &'static str,
    x: &DeviceRows<'_>,
    y: &DeviceRows<'_>,
) -> Result<()> {
    equal(op, what, y.rows, x.rows)?;
    equal(op, what, y.cols, x.cols)
}

/// Both views have the same type.
pub(super) fn type_of(op: &'static str, expected: crate::format::Format, x: &DeviceRows<'_>) -> Result<()> {
    equal(op, "operands of another type", 0, usize::from(x.format != expected))
}

pub(super) fn vector<T: Plain>(
    op: &'static str,
    what: &'static str,
    len: usize,
    x: Option<&DeviceBuffer<T>>,
) -> Result<()> {
    x.map_or(Ok(()), |x| at_least(op, what, len, x.len()))
}
