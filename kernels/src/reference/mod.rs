//! Every operation, slow and obviously right: the oracle of the tests.
//!
//! Sums run in `f64`, weights are plain dense `f32`, nothing is blocked, vectorised or threaded.
//! Shapes are not checked beyond what indexing checks: a wrong shape panics.

mod activation;
mod attention;
mod embed;
mod matmul;
mod norm;
mod quantize;
mod rope;
mod rows;
mod sampling;
mod softmax;

pub use activation::{activate, activation, erf, gate};
pub use attention::{attention, cache_write};
pub use embed::embed;
pub use matmul::matmul;
pub use norm::norm;
pub use quantize::round_inputs;
pub(crate) use quantize::round_row;
pub use rope::rope;
pub use rows::{add, mean_pool, select_rows};
pub use sampling::sample;
pub use softmax::{argmax, softmax};

use crate::args::{Rows, RowsMut};

fn row<'a>(x: &Rows<'a>, r: usize) -> &'a [f32] {
    &x.data[r * x.stride..][..x.cols]
}

fn row_mut<'a>(y: &'a mut RowsMut<'_>, r: usize) -> &'a mut [f32] {
    &mut y.data[r * y.cols..][..y.cols]
}
