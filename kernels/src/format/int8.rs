//! `int8`: integers from -127 to 127, one `f32` scale per row (output channel), symmetric.

use super::{Block, CREST, Codes, Format, FormatSpec, RowLayout, ScaleKind, row_scale};

/// The largest code; -128 is left out so that a row and its negative round alike.
pub(crate) const MAX: f32 = 127.0;

/// Every weight moves by at most half a scale, and the scale is at most [`CREST`] root mean squares over 127.
const NMSE_BOUND: f64 = (CREST / 254.0) * (CREST / 254.0);

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Int8,
    name: "int8",
    code_bits: 8,
    codes: Codes::Int8,
    block: Block::Row,
    scale: ScaleKind::F32,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row,
    decode_row,
};

fn encode_row(values: &[f32], _: RowLayout, codes: &mut [u8], scales: &mut [u8]) {
    scales.copy_from_slice(&round(values, codes).to_le_bytes());
}

/// Rounds a row; its scale.
pub(crate) fn round(values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = row_scale(values, MAX);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = nearest(value / scale) as u8;
    }
    scale
}

/// The nearest code, ties to even, 0 for NaN; without a call, so that compilers make vectors of it.
#[inline(always)]
fn nearest(steps: f32) -> i8 {
    // Adding 1.5 * 2^23 leaves no room for a fraction, and the integer in the low bits.
    const NO_FRACTION: f32 = 12_582_912.0;
    let steps = if steps.is_nan() { 0.0 } else { steps };
    (steps.clamp(-MAX, MAX) + NO_FRACTION).to_bits() as i8
}

fn decode_row(codes: &[u8], scales: &[u8], _: RowLayout, out: &mut [f32]) {
    let Some(scale) = scales.first_chunk().map(|bytes| f32::from_le_bytes(*bytes)) else { return };
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(*code as i8) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_rounding_to_even_and_saturating() {
        // Every upper half of a float, with the halfway cases below it and their neighbours.
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let steps = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(nearest(steps), steps.round_ties_even().clamp(-MAX, MAX) as i8, "{steps:e}");
            }
        }
    }
}
