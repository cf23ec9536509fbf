//! Memory that operations need for a moment, kept from call to call so that none is allocated per token.

use std::cell::RefCell;

/// A cache line of floats; makes scratch memory aligned for the widest vector loads.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// Buffers not in use; one for each level of nesting.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of unspecified content, 64-byte aligned, that nobody else uses meanwhile.
pub(super) fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if lines.len() * 16 < len {
        // Grown by replacement: the old content is of no interest.
        lines = bytemuck::allocation::zeroed_vec(len.div_ceil(16));
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    FREE.with_borrow_mut(|free| free.push(lines));
    result
}
