//! `y [m, n] = x [m, k] w [n, k]^T + bias [n]`.

use super::{row, row_mut};
use crate::args::{Rows, RowsMut};

/// The product with dense weights `w [n, k]`, `n = y.cols`, `k = x.cols`.
pub fn matmul(x: Rows<'_>, w: &[f32], bias: Option<&[f32]>, mut y: RowsMut<'_>) {
    let k = x.cols;
    for r in 0..x.rows {
        for (j, y) in row_mut(&mut y, r).iter_mut().enumerate() {
            let products =
                row(&x, r).iter().zip(&w[j * k..][..k]).map(|(x, w)| f64::from(*x) * f64::from(*w));
            *y = (products.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[j]))) as f32;
        }
    }
}
