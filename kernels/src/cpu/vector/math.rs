//! Exponential, hyperbolic tangent and the activations built from them.
//!
//! The polynomials are minimax fits (Remez exchange, relative error) made for this file.

use super::Arithmetic;
use crate::args::ActivationKind;

/// `exp(r) = 1 + r + r^2 (EXP[0] + EXP[1] r + ...)` for `|r| <= ln 2 / 2`, relative error 3.1e-9.
const EXP: [f32; 5] = [4.999_999_4e-1, 1.666_652_1e-1, 4.166839e-2, 8.368745e-3, 1.381454e-3];
/// `ln 2` in two parts; the first has 9 trailing zero bits, so its product with a small integer is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `Phi(x) = 1/2 + u (NORMAL[0] + NORMAL[1] s + ...)` with `u = x / NORMAL_END` and `s = 2 u^2 - 1`, for `|u| <= 1`, where
/// `Phi` is the normal distribution function; 1.4 * 2^-24 off, and 3.6 * 2^-24 with all roundings. The sum is exactly 1/2 at
/// the end, so that `Phi` becomes 0 and 1 there; `s` keeps the coefficients small, so that rounding does not grow.
const NORMAL: [f32; 14] = [
    7.069_616e-1,
    -3.524_146_7e-1,
    2.606_302_8e-1,
    -2.087_929_7e-1,
    1.683_397e-1,
    -1.311_553_3e-1,
    9.620_123e-2,
    -6.826_713e-2,
    4.763_957e-2,
    -2.641_427_7e-2,
    9.796_728e-3,
    -7.365_581_6e-3,
    7.653_07e-3,
    -2.812_266e-3,
];
/// From here on `Phi` is within 1.3 * 2^-24 of 1.
const NORMAL_END: f32 = 5.25;
/// `tanh(x) = x + x^3 (TANH[0] + TANH[1] x^2 + ...)` for `|x| <= 0.625`, relative error 4.1e-9.
const TANH: [f32; 5] = [-3.333_328_4e-1, 1.333_149_1e-1, -5.374_349_7e-2, 2.065_058_8e-2, -5.717_045e-3];

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
unsafe fn polynomial<V: Arithmetic>(x: V, c: &[f32]) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let mut sum = V::splat(c[c.len() - 1]);
        for c in c[..c.len() - 1].iter().rev() {
            sum = sum.mul_add(x, V::splat(*c));
        }
        sum
    }
}

/// `exp(x)`: at most two units in the last place off; 0 below -87.3, and no more than `exp(88.3)`.
///
/// # Safety
///
/// The processor has the features of `V`; likewise below.
#[inline(always)]
pub(super) unsafe fn exp<V: Arithmetic>(x: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        // The smallest and the largest power of two that `scale` knows.
        let lowest = V::splat(-87.336_54);
        let clamped = V::splat(88.376_26).min(lowest.max(x));
        let n = clamped.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-LN2_HIGH), clamped);
        let r = n.mul_add(V::splat(-LN2_LOW), r);
        let result = polynomial(r, &EXP).mul_add(r.mul(r), r).add(V::splat(1.0)).scale(n);
        x.select_less(lowest, V::splat(0.0), result)
    }
}

/// `tanh(x)`, relatively accurate near zero too.
#[inline(always)]
unsafe fn tanh<V: Arithmetic>(x: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let t = x.abs();
        let square = x.mul(x);
        let small = polynomial(square, &TANH).mul(square).mul_add(x, x);
        // From 9.1 on tanh rounds to 1.
        let e = exp(V::splat(10.0).min(t).mul(V::splat(2.0))).add(V::splat(1.0));
        let large = V::splat(1.0).sub(V::splat(2.0).div(e));
        let large = x.select_less(V::splat(0.0), V::splat(0.0).sub(large), large);
        t.select_less(V::splat(0.625), small, large)
    }
}

/// `x sigmoid(u)`.
#[inline(always)]
unsafe fn x_sigmoid<V: Arithmetic>(x: V, u: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe { x.div(exp(V::splat(0.0).sub(u)).add(V::splat(1.0))) }
}

/// `x Phi(x)`, off by a few roundings of `x`: where `Phi` is small its own digits are not needed.
#[inline(always)]
unsafe fn gelu_erf<V: Arithmetic>(x: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let u = V::splat(1.0).min(V::splat(-1.0).max(x.mul(V::splat(1.0 / NORMAL_END))));
        let s = u.mul(u).mul_add(V::splat(2.0), V::splat(-1.0));
        x.mul(polynomial(s, &NORMAL).mul_add(u, V::splat(0.5)))
    }
}

/// One activation.
#[inline(always)]
pub(in crate::cpu) unsafe fn activation<V: Arithmetic>(kind: ActivationKind, x: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        match kind {
            ActivationKind::GeluErf => gelu_erf(x),
            // x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
            ActivationKind::GeluTanh => {
                let slope =
                    x.mul(x).mul_add(V::splat(2.0 * 0.797_884_6 * 0.044_715), V::splat(2.0 * 0.797_884_6));
                x_sigmoid(x, x.mul(slope))
            }
            ActivationKind::GeluSigmoid => x_sigmoid(x, x.mul(V::splat(1.702))),
            ActivationKind::Relu => V::splat(0.0).max(x),
            ActivationKind::Silu => x_sigmoid(x, x),
            ActivationKind::Tanh => tanh(x),
        }
    }
}
