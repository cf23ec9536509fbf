//! Algorithms written once over [`Vector`], for every instruction set.
//!
//! A vector type provides arithmetic on a few lanes; its methods are always inlined and carry no target feature.
//! The instruction sets instantiate the algorithms with [`vector_functions`], in functions that do carry the
//! features, so that everything is compiled for them.
//! Closures are avoided: one that is not inlined lacks the features, and each of its instructions becomes a call.

pub(super) mod attention;
mod element;
pub(super) mod elementwise;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "not every processor has a kernel")
)]
pub(super) mod fixed;
pub(super) mod math;
pub(super) mod norm;
pub(super) mod rope;
mod several;
pub(super) mod softmax;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_macros, unused_imports, reason = "not every processor has a kernel")
)]
pub(super) mod weight;

/// What is computed of `f32` lanes, each by itself.
///
/// # Safety
///
/// Every method may be called only on a processor that has the features the type is made for.
pub(super) trait Arithmetic: Copy {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + summand`, rounded once where the processor can.
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self;
    /// The larger one; `other` when one of them is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller one; `other` when one of them is NaN.
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// To the nearest integer, ties to even; for magnitudes below `2^22`.
    unsafe fn round(self) -> Self;
    /// `self * 2^n` for whole `n` between -126 and 127, lane by lane.
    unsafe fn scale(self, n: Self) -> Self;
    /// `if_less` where `self < bound`, else `otherwise` (also where one of them is NaN).
    unsafe fn select_less(self, bound: Self, if_less: Self, otherwise: Self) -> Self;
}

/// A few `f32` lanes.
///
/// # Safety
///
/// Every method may be called only on a processor that has the features the type is made for.
/// Methods that take a pointer name the elements it must be valid for.
pub(super) trait Vector: Arithmetic {
    /// At most 16.
    const LANES: usize;

    /// Reads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads `n <= LANES` elements; the other lanes are zero.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// Reads `n <= LANES` elements, all of them as often as not.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, n: usize) -> Self {
        // SAFETY: `n` elements are readable.
        unsafe { if n == Self::LANES { Self::load(from) } else { Self::load_first(from, n) } }
    }
    /// Reads `n <= LANES` bytes and converts them; the other lanes are zero.
    unsafe fn load_bytes(from: *const u8, n: usize) -> Self;
    /// Reads the bits of `LANES` IEEE halves and widens them.
    unsafe fn load_halves(from: *const u16) -> Self;
    /// Reads `LANES` integers and converts them.
    unsafe fn load_integers(from: *const i8) -> Self;
    /// Writes `LANES` elements.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n <= LANES` elements.
    unsafe fn store_first(self, to: *mut f32, n: usize);

    /// Writes the first `n <= LANES` elements, all of them as often as not.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, n: usize) {
        // SAFETY: `n` elements are writable.
        unsafe { if n == Self::LANES { self.store(to) } else { self.store_first(to, n) } }
    }

    /// Whether a lane equals `other`'s.
    unsafe fn any_equal(self, other: Self) -> bool;
    /// The sum of all lanes, in an order of its own.
    unsafe fn sum(self) -> f32;
    /// The largest lane, none being NaN.
    unsafe fn largest(self) -> f32;
    /// Lane `i` is the sum of vector `i`, for `LANES` vectors.
    unsafe fn sum_each(vectors: &[Self; 16]) -> Self;
}

/// Defines the rows of an [`OpTable`](super::op_table::OpTable) that are vector algorithms.
macro_rules! vector_functions {
    ($vector:ty $(, $features:meta)?) => {
        use crate::args::ActivationKind;
        use crate::cpu::op_table::{NormRow, RopeHead, Scores, TokenRows};
        vector_functions! { $vector, [$($features)?];
            norm::norm(row: NormRow<'_>);
            elementwise::activate(kind: ActivationKind, x: &[f32], y: &mut [f32]);
            elementwise::gate(kind: ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]);
            elementwise::add(a: &[f32], b: &[f32], y: &mut [f32]);
            rope::rope(head: RopeHead<'_>);
            softmax::softmax(x: &[f32], y: &mut [f32]);
            softmax::argmax(x: &[f32]) -> usize;
            softmax::exponentials(scores: Scores<'_>) -> (f32, f32);
            attention::dots(q: &[f32], keys: TokenRows<'_>, is_far: bool, scores: &mut [f32]);
            attention::weighted_sum(weights: &[f32], values: TokenRows<'_>, is_far: bool, y: &mut [f32]);
            attention::round_row(values: &[f32], codes: &mut [u8]) -> f32;
            attention::widen_rows(rows: TokenRows<'_>, d: usize, out: &mut [f32]);
        }
    };
    ($vector:ty, $features:tt; $($module:ident::$name:ident $args:tt $(-> $result:ty)?;)*) => {
        $(vector_functions! { @one $vector, $features; $module::$name $args $(-> $result)? })*
    };
    (@one $vector:ty, [$($features:meta)?]; $module:ident::$name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$features])?
        fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: this function is compiled for the features of the vector type, or needs none.
            unsafe { crate::cpu::vector::$module::$name::<$vector>($($arg),*) }
        }
    };
}
pub(super) use vector_functions;
