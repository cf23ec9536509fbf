//! Results that several threads write at once, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that can be handed to tasks which promise not to overlap.
pub(super) struct Output<'a> {
    data: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only ways to the data are `range` and `pointer`, whose callers promise that no two threads touch the
// same element; `f32` itself may be used from any thread.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
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
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "range of an output");
        // SAFETY: the range lies inside the slice borrowed for `'a` (checked above), and by the caller's promise
        // nobody else touches it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// The first element; valid for reads and writes of `len` elements under the promise of [`range`](Self::range).
    pub(super) fn pointer(&self) -> *mut f32 {
        self.data
    }
}
