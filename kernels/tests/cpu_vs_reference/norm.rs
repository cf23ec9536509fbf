//! LayerNorm and RMSNorm.

use joulewise_kernels::args::{Norm, NormKind, RowsMut};
use joulewise_kernels::reference;

use crate::{EPSILON, Random, assert_close, kernels};

#[test]
fn norms_match() {
    let mut random = Random(10);
    for kernels in kernels() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for k in [1, 2, 15, 16, 26, 64, 312, 768, 1200, 4096] {
                // Offsets up to 1000 times the spread: a one-pass variance in f32 would lose everything.
                for offset in [0.0, 3.0, 1000.0] {
                    let m = 1 + random.below(5);
                    let mut x = random.matrix(m, k);
                    x.data.iter_mut().for_each(|x| *x += offset);
                    let weight = random.values(k);
                    let bias = random.values(k);
                    let bias = (random.below(2) == 0).then_some(&bias[..]);
                    let eps = 1e-5;
                    let (mut y, mut expected) = (vec![f32::NAN; m * k], vec![0.0; m * k]);
                    let args = |data| Norm {
                        kind,
                        x: x.view(),
                        weight: &weight,
                        bias,
                        eps,
                        y: RowsMut { data, rows: m, cols: k },
                    };
                    kernels.norm(args(&mut y)).unwrap();
                    reference::norm(args(&mut expected));
                    let what = format!("{} {kind:?} m={m} k={k} offset={offset}", kernels.isa());
                    assert_close(&what, &y, &expected, |i| {
                        let row = x.row(i / k);
                        let count = k as f64;
                        let mean = match kind {
                            NormKind::Layer => row.iter().map(|x| f64::from(*x)).sum::<f64>() / count,
                            NormKind::Rms => 0.0,
                        };
                        let magnitude = row.iter().map(|x| f64::from(x.abs())).sum::<f64>() / count;
                        let squares = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
                        let deviation = (squares + f64::from(eps)).sqrt();
                        // Sums run in at least 4 vectors of 4 lanes: at most k / 16 + 8 roundings each, relative to
                        // the sum of magnitudes. A first mean is off by that; the second pass sums what is left of
                        // each element, `|x - mean|` plus that error, and so finds the mean to the same relative
                        // accuracy of a much smaller magnitude. That shifts every `x - mean` alike. The variance
                        // has the accuracy of its sum, plus the square of the shift, and the deviation half of it;
                        // the rest are eight single operations.
                        let sum = (count / 16.0 + 8.0) * EPSILON;
                        let spread = row.iter().map(|x| (f64::from(*x) - mean).abs()).sum::<f64>() / count;
                        let first_error = (sum + EPSILON) * magnitude;
                        let shift = if kind == NormKind::Layer {
                            (sum + 3.0 * EPSILON) * (spread + first_error)
                        } else {
                            0.0
                        };
                        let centred = (f64::from(row[i % k]) - mean).abs() + first_error;
                        let relative = sum + 8.0 * EPSILON + (shift / deviation).powi(2);
                        let normal = (shift + centred * relative) / deviation;
                        let bias = bias.map_or(0.0, |bias| f64::from(bias[i % k].abs()));
                        normal * f64::from(weight[i % k].abs())
                            + EPSILON * (bias + 2.0 * f64::from(expected[i].abs()))
                    });
                }
            }
        }
    }
}
