//! What keys and values are stored as, widened as it is read.

use super::Vector;

/// An element of stored rows.
pub(super) trait Element: Copy {
    const ZERO: Self;

    /// Reads `LANES` elements.
    ///
    /// # Safety
    ///
    /// They are readable, and the processor has the features of `V`; likewise below.
    unsafe fn load<V: Vector>(from: *const Self) -> V;

    /// Reads `n <= LANES` elements; the other lanes are zero.
    #[inline(always)]
    unsafe fn load_first<V: Vector>(from: *const Self, n: usize) -> V {
        let mut lanes = [Self::ZERO; 16];
        // SAFETY: `n` elements are readable, and there are at most 16 lanes; the caller vouches for the processor.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n.min(16));
            Self::load(lanes.as_ptr())
        }
    }

    /// Reads `n <= LANES` elements, all of them as often as not.
    #[inline(always)]
    unsafe fn load_up_to<V: Vector>(from: *const Self, n: usize) -> V {
        // SAFETY: `n` elements are readable; the caller vouches for the processor.
        unsafe { if n == V::LANES { Self::load(from) } else { Self::load_first(from, n) } }
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: as the caller vouches; likewise below.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn load_first<V: Vector>(from: *const Self, n: usize) -> V {
        // SAFETY: as the caller vouches.
        unsafe { V::load_first(from, n) }
    }
}

/// The bits of an IEEE half.
impl Element for u16 {
    const ZERO: Self = 0;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: as the caller vouches.
        unsafe { V::load_halves(from) }
    }
}

/// An integer.
impl Element for i8 {
    const ZERO: Self = 0;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: as the caller vouches.
        unsafe { V::load_integers(from) }
    }
}
