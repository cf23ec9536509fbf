//! Several vectors at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use super::Arithmetic;

macro_rules! each {
    ($($name:ident($($arg:ident),*);)*) => {
        $(#[inline(always)]
        unsafe fn $name(self $(, $arg: Self)*) -> Self {
            let mut results = self;
            for i in 0..N {
                // SAFETY: the caller vouches for the processor.
                results[i] = unsafe { self[i].$name($($arg[i]),*) };
            }
            results
        })*
    };
}

/// The same of each vector, one instruction after the other: while a result is awaited, those of the other vectors are
/// under way, and few instructions wait for their turn.
impl<V: Arithmetic, const N: usize> Arithmetic for [V; N] {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the processor.
        [unsafe { V::splat(value) }; N]
    }

    each! {
        add(other);
        sub(other);
        mul(other);
        div(other);
        mul_add(factor, summand);
        max(other);
        min(other);
        abs();
        round();
        scale(n);
        select_less(bound, if_less, otherwise);
    }
}
