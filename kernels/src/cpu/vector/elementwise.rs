//! Activations, gates and sums of one row.

use super::Vector;
use super::math::activation;
use crate::args::ActivationKind;

/// `y = f(x)`.
///
/// # Safety
///
/// The processor has the features of `V`; likewise below.
#[inline(always)]
pub(in crate::cpu) unsafe fn activate<V: Vector>(kind: ActivationKind, x: &[f32], y: &mut [f32]) {
    // SAFETY: the caller vouches for the processor.
    unsafe { for_kind::<V, false>(kind, x, x, y) }
}

/// `y = f(gate) * up`.
#[inline(always)]
pub(in crate::cpu) unsafe fn gate<V: Vector>(kind: ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]) {
    // SAFETY: the caller vouches for the processor.
    unsafe { for_kind::<V, true>(kind, gate, up, y) }
}

/// `y = a + b`.
#[inline(always)]
pub(in crate::cpu) unsafe fn add<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32]) {
    // SAFETY: the caller vouches for the processor.
    unsafe { map::<V, _>(a, b, y, Sum) }
}

/// The kind becomes a constant of the loop.
#[inline(always)]
unsafe fn for_kind<V: Vector, const GATED: bool>(kind: ActivationKind, a: &[f32], b: &[f32], y: &mut [f32]) {
    use ActivationKind::*;
    // SAFETY: the caller vouches for the processor.
    unsafe {
        match kind {
            GeluErf => map::<V, _>(a, b, y, Activation::<GATED>(GeluErf)),
            GeluTanh => map::<V, _>(a, b, y, Activation::<GATED>(GeluTanh)),
            GeluSigmoid => map::<V, _>(a, b, y, Activation::<GATED>(GeluSigmoid)),
            Relu => map::<V, _>(a, b, y, Activation::<GATED>(Relu)),
            Silu => map::<V, _>(a, b, y, Activation::<GATED>(Silu)),
            Tanh => map::<V, _>(a, b, y, Activation::<GATED>(Tanh)),
        }
    }
}

/// A function of two elements.
trait Binary {
    /// # Safety
    ///
    /// The processor has the features of `V`.
    unsafe fn apply<V: Vector>(&self, a: V, b: V) -> V;
}

struct Sum;

impl Binary for Sum {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, a: V, b: V) -> V {
        // SAFETY: the caller vouches for the processor.
        unsafe { a.add(b) }
    }
}

/// `f(a) * b` if gated, else `f(a)`.
struct Activation<const GATED: bool>(ActivationKind);

impl<const GATED: bool> Binary for Activation<GATED> {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, a: V, b: V) -> V {
        // SAFETY: the caller vouches for the processor.
        unsafe {
            let value = activation(self.0, a);
            if GATED { value.mul(b) } else { value }
        }
    }
}

/// `y = f(a, b)`, element by element.
#[inline(always)]
unsafe fn map<V: Vector, F: Binary>(a: &[f32], b: &[f32], y: &mut [f32], f: F) {
    let n = y.len().min(a.len()).min(b.len());
    let (a, b, y) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    while i < n {
        let count = V::LANES.min(n - i);
        // SAFETY: elements `i..i + count` lie inside all three slices; the caller vouches for the processor.
        unsafe {
            let result = f.apply(V::load_up_to(a.add(i), count), V::load_up_to(b.add(i), count));
            result.store_up_to(y.add(i), count);
        }
        i += count;
    }
}
