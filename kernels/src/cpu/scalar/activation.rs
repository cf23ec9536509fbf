//! Element-wise functions of one row.

use crate::args::ActivationKind;
use crate::reference;

pub(super) fn activate(kind: ActivationKind, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.iter().zip(y) {
        *y = reference::activation(kind, f64::from(*x)) as f32;
    }
}

pub(super) fn gate(kind: ActivationKind, gate: &[f32], up: &[f32], y: &mut [f32]) {
    activate(kind, gate, y);
    for (up, y) in up.iter().zip(y) {
        *y *= up;
    }
}

pub(super) fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((a, b), y) in a.iter().zip(b).zip(y) {
        *y = a + b;
    }
}
