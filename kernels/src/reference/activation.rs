//! Element-wise functions.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use super::{row, row_mut};
use crate::args::{Activate, ActivationKind, Gate};

/// The error function, by its series `2/sqrt(pi) exp(-x^2) sum 2^i x^(2i+1) / (1 3 5 .. (2i+1))`, all of whose
/// terms have one sign (Abramowitz and Stegun 7.1.6).
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 - erf(6) = 2e-17
    }
    let mut term = x;
    let mut sum = x;
    let mut i = 0.0;
    while term.abs() > 1e-18 * sum.abs() {
        i += 1.0;
        term *= 2.0 * x * x / (2.0 * i + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// One activation in `f64`.
pub fn activation(kind: ActivationKind, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        ActivationKind::GeluErf => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        ActivationKind::GeluTanh => 0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        ActivationKind::GeluSigmoid => x * sigmoid(1.702 * x),
        ActivationKind::Relu => x.max(0.0),
        ActivationKind::Silu => x * sigmoid(x),
        ActivationKind::Tanh => x.tanh(),
    }
}

/// `y = f(x)`.
pub fn activate(mut args: Activate<'_>) {
    for r in 0..args.x.rows {
        for (x, y) in row(&args.x, r).iter().zip(row_mut(&mut args.y, r)) {
            *y = activation(args.kind, f64::from(*x)) as f32;
        }
    }
}

/// `y = f(gate) * up`.
pub fn gate(mut args: Gate<'_>) {
    for r in 0..args.gate.rows {
        let inputs = row(&args.gate, r).iter().zip(row(&args.up, r));
        for ((gate, up), y) in inputs.zip(row_mut(&mut args.y, r)) {
            *y = (activation(args.kind, f64::from(*gate)) * f64::from(*up)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (-1.0, -0.842_700_792_949_714_9),
        ] {
            assert!((erf(x) - expected).abs() < 1e-15, "erf({x})");
        }
    }
}
