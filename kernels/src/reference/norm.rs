//! LayerNorm and RMSNorm.

use super::{row, row_mut};
use crate::args::{Norm, NormKind};

/// Normalises every row.
pub fn norm(mut args: Norm<'_>) {
    for r in 0..args.x.rows {
        let x: Vec<f64> = row(&args.x, r).iter().map(|x| f64::from(*x)).collect();
        let k = x.len() as f64;
        let mean = match args.kind {
            NormKind::Layer => x.iter().sum::<f64>() / k,
            NormKind::Rms => 0.0,
        };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / k;
        let deviation = (variance + f64::from(args.eps)).sqrt();
        for (i, y) in row_mut(&mut args.y, r).iter_mut().enumerate() {
            let bias = args.bias.map_or(0.0, |bias| f64::from(bias[i]));
            *y = ((x[i] - mean) / deviation * f64::from(args.weight[i]) + bias) as f32;
        }
    }
}
