//! Activations of 8 bits.

use super::row;
use crate::args::{InputRounding, Rows};
use crate::format::{Format, fp8_e4m3, row_scale};

/// The largest integer code.
const INT8_MAX: f32 = 127.0;

/// `x [m, k]` after the rounding that a product with `weights` asks for, dense.
pub fn round_inputs(x: Rows<'_>, rounding: InputRounding, weights: Format) -> Vec<f32> {
    let mut rounded = Vec::with_capacity(x.rows * x.cols);
    for r in 0..x.rows {
        let start = rounded.len();
        rounded.extend_from_slice(row(&x, r));
        round_row(&mut rounded[start..], rounding, weights);
    }
    rounded
}

/// Rounds one row in place; see [`InputRounding`].
pub(crate) fn round_row(row: &mut [f32], rounding: InputRounding, weights: Format) {
    let is_float = matches!(weights, Format::Fp8E4m3 | Format::Fp8E5m2);
    let scale = match rounding {
        InputRounding::None => return,
        InputRounding::PerToken => row_scale(row, if is_float { fp8_e4m3::MAX } else { INT8_MAX }),
        InputRounding::Static { scale } => scale,
    };
    let inverse = 1.0 / scale;
    for value in row {
        let steps = *value * inverse;
        *value = scale
            * if is_float {
                fp8_e4m3::decode(fp8_e4m3::encode(steps))
            } else {
                steps.round_ties_even().clamp(-INT8_MAX, INT8_MAX)
            };
    }
}
