//! Four lanes in plain Rust, which compilers turn into the baseline vectors of a machine (SSE2, NEON).

use half::f16;

use crate::cpu::vector::{Arithmetic, Vector};

/// Four `f32`.
#[derive(Clone, Copy)]
pub(super) struct Lanes([f32; 4]);

impl Lanes {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Arithmetic for Lanes {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    /// Rounded twice: without an instruction for it, one rounding is a slow library call.
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(summand, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding 1.5 * 2^23 leaves no room for a fraction; a library call would be slower.
        const NO_FRACTION: f32 = 12_582_912.0;
        Self(self.0.map(|x| x + NO_FRACTION - NO_FRACTION))
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        // The power of two is put together from its exponent.
        self.zip(n, |x, n| x * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn select_less(self, bound: Self, if_less: Self, otherwise: Self) -> Self {
        let less = |i: usize| self.0[i] < bound.0[i];
        Self(std::array::from_fn(|i| if less(i) { if_less.0[i] } else { otherwise.0[i] }))
    }
}

impl Vector for Lanes {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four elements are readable.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        // SAFETY: `n` elements are readable, and no more are read.
        Self(std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, n: usize) -> Self {
        // SAFETY: `n` bytes are readable, and no more are read.
        Self(std::array::from_fn(|i| if i < n { f32::from(unsafe { *from.add(i) }) } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> Self {
        // SAFETY: four elements are readable.
        let halves = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(halves.map(|bits| f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_integers(from: *const i8) -> Self {
        // SAFETY: four elements are readable.
        Self(unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four elements are writable.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        for (i, value) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: `n` elements are writable.
            unsafe { *to.add(i) = value };
        }
    }

    #[inline(always)]
    unsafe fn any_equal(self, other: Self) -> bool {
        (0..4).any(|i| self.0[i] == other.0[i])
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + b) + (c + d)
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self; 16]) -> Self {
        // SAFETY: plain Rust has no precondition.
        Self(std::array::from_fn(|i| unsafe { vectors[i].sum() }))
    }
}
