//! `y [m, k] = table[ids]`.

use super::row_mut;
use crate::args::RowsMut;

/// Copies rows of a dense table `[n, k]`, `k = y.cols`.
pub fn embed(table: &[f32], ids: &[u32], mut y: RowsMut<'_>) {
    let k = y.cols;
    for (r, id) in ids.iter().enumerate() {
        row_mut(&mut y, r).copy_from_slice(&table[*id as usize * k..][..k]);
    }
}
