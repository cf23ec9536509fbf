//! LayerNorm and RMSNorm of one row, in two passes: the mean first, then the squares of what is left, so that a
//! large offset does not cancel.

use crate::args::NormKind;
use crate::cpu::op_table::NormRow;

pub(super) fn norm(row: NormRow<'_>) {
    let NormRow { kind, x, weight, bias, eps, y } = row;
    let k = x.len() as f64;
    let mean = match kind {
        NormKind::Layer => (x.iter().map(|x| f64::from(*x)).sum::<f64>() / k) as f32,
        NormKind::Rms => 0.0,
    };
    let squares: f64 = x.iter().map(|x| f64::from(x - mean) * f64::from(x - mean)).sum();
    let factor = (1.0 / (squares / k + f64::from(eps)).sqrt()) as f32;
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = (x - mean) * factor * weight;
    }
    if let Some(bias) = bias {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}
