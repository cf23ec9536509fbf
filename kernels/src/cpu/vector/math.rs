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

/// `2^f = 1 + f (EXP2[0] + EXP2[1] f + ...)` for `|f| <= 1/2`, relative error 1.6e-8.
const EXP2: [f32; 6] =
    [6.931_472e-1, 2.402_264_8e-1, 5.550_332_4e-2, 9.618_437e-3, 1.339_887_5e-3, 1.535_336_2e-4];

/// `Phi(-t) exp(t^2 / 2) (t + 3) = TAIL[0] + TAIL[1] w + ...` with `w = (t - 3) / (t + 3)`, for `0 <= t <= 13`, where
/// `Phi` is the normal distribution function; relative error 3.9e-8. The substitution keeps the coefficients small, so
/// that rounding does not grow (Shepherd and Laframboise 1981 use it for the error function).
const TAIL: [f32; 9] = [
    7.290_836_6e-1,
    -5.093_322_4e-1,
    2.300_192_4e-1,
    -4.725_738e-2,
    -1.047_944e-2,
    6.930_303_8e-3,
    1.077_650_8e-3,
    -9.126_332_6e-4,
    -2.729_945e-4,
];
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

/// `x Phi(x) = max(x, 0) - t Phi(-t)` with `t = |x|`, which cancels nowhere.
#[inline(always)]
unsafe fn gelu_erf<V: Arithmetic>(x: V) -> V {
    // SAFETY: the caller vouches for the processor.
    unsafe {
        // From 13 on `t Phi(-t)` is below 1e-37, and so it stays; keeps infinities out, and the power of two normal.
        let t = V::splat(13.0).min(x.abs());
        let q = V::splat(1.0).div(t.add(V::splat(3.0)));
        let w = t.sub(V::splat(3.0)).mul(q);
        // exp(-t^2 / 2) as a power of two: rounding the exponent weighs as much as rounding `t^2` does.
        let u = t.mul(t).mul(V::splat(-0.5 * std::f32::consts::LOG2_E));
        let n = u.round();
        let f = u.sub(n);
        let density = polynomial(f, &EXP2).mul_add(f, V::splat(1.0)).scale(n);
        let tail = density.mul(q).mul(polynomial(w, &TAIL));
        V::splat(0.0).max(x).sub(t.mul(tail))
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
