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
    // The kind is made a constant, so that each loop holds one function.
    macro_rules! each {
        ($($kind:ident)*) => {
            match kind {
                // SAFETY: the caller vouches for the processor.
                $(ActivationKind::$kind => unsafe {
                    map::<V>(x, x, y, |x, _| activation(ActivationKind::$kind, x))
                },)*
            }
        };
    }
    each!(GeluErf GeluTanh GeluSigmoid Relu Silu Tanh);
}

/// `y = f(gate) * up`.
#[inline(always)]
pub(in crate::cpu) unsafe fn gate<V: Vector>(kind: ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]) {
    macro_rules! each {
        ($($kind:ident)*) => {
            match kind {
                // SAFETY: the caller vouches for the processor.
                $(ActivationKind::$kind => unsafe {
                    map::<V>(gate, up, y, |gate, up| activation(ActivationKind::$kind, gate).mul(up))
                },)*
            }
        };
    }
    each!(GeluErf GeluTanh GeluSigmoid Relu Silu Tanh);
}

/// `y = a + b`.
#[inline(always)]
pub(in crate::cpu) unsafe fn add<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32]) {
    // SAFETY: the caller vouches for the processor.
    unsafe { map::<V>(a, b, y, |a, b| a.add(b)) }
}

/// `y = f(a, b)`, element by element.
#[inline(always)]
unsafe fn map<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(V, V) -> V) {
    let n = y.len().min(a.len()).min(b.len());
    let (a, b, y) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    while i + V::LANES <= n {
        // SAFETY: elements `i..i + LANES` lie inside all three slices.
        unsafe { f(V::load(a.add(i)), V::load(b.add(i))).store(y.add(i)) };
        i += V::LANES;
    }
    if i < n {
        // SAFETY: elements `i..n` lie inside all three slices.
        unsafe {
            f(V::load_first(a.add(i), n - i), V::load_first(b.add(i), n - i)).store_first(y.add(i), n - i)
        };
    }
}
