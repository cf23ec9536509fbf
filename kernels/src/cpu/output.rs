//! Results that several threads write at once, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that can be handed to tasks which promise not to overlap.
pub(super) struct Output<'a, T = f32> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the only ways to the data are `range` and `pointer`, whose callers promise that no two threads touch the
// same element; the elements themselves may be used from any thread.
unsafe impl<T: Send + Sync> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub(super) fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Whether there is no element.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of `range`.
    ///
    /// # Panics
    ///
    /// When the range is out of bounds.
    ///
    /// # Safety
    ///
    /// While the slice lives, nobody else reads or writes an element of the range.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that ranges do not overlap")]
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range of an output");
        // SAFETY: the range lies inside the slice borrowed for `'a` (checked above), and by the caller's promise
        // nobody else touches it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// The first element; valid for reads and writes of `len` elements under the promise of [`range`](Self::range).
    pub(super) fn pointer(&self) -> *mut T {
        self.data
    }
}
