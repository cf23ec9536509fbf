//! `fp8_e4m3`: 1 sign, 4 exponent and 3 mantissa bits, bias 7, no infinities (Micikevicius et al. 2022, "FP8 formats for
//! deep learning"; the `E4M3FN` of the OCP 8-bit floating point specification). As a weight format, one `f32` scale per
//! row that maps its largest magnitude to 448.

use super::minifloat::{decode_magnitude, encode_magnitude};
use super::{Block, CREST, Codes, Format, FormatSpec, ScaleKind, row_scale};

/// The largest value.
pub const MAX: f32 = 448.0;

/// Rounding with 4 significant bits moves a normal value by at most `2^-4` of it; below the smallest normal `2^-6` it
/// moves by at most `2^-10` in units of the scale, which is at most [`CREST`] root mean squares over 448.
const NMSE_BOUND: f64 = 1.0 / 256.0 + (CREST / 448.0 / 1024.0) * (CREST / 448.0 / 1024.0);

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Fp8E4m3,
    name: "fp8_e4m3",
    code_bits: 8,
    codes: Codes::E4m3,
    block: Block::Row,
    scale: ScaleKind::F32,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row: |values, _, codes, scales| encode_scaled(values, MAX, encode, codes, scales),
    decode_row: |codes, scales, _, out| decode_scaled(codes, scales, decode, out),
};

/// The nearest code, ties to even; magnitudes beyond 448 saturate, NaN stays NaN.
pub fn encode(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    sign | if value.is_nan() { 0x7f } else { encode_magnitude(value.abs(), 3, 7, MAX) }
}

/// The value of a code.
pub fn decode(code: u8) -> f32 {
    let magnitude = if code & 0x7f == 0x7f { f32::NAN } else { decode_magnitude(code & 0x7f, 3, 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Rounds a row after dividing it by a scale that maps its largest magnitude to `max`.
pub(super) fn encode_scaled(
    values: &[f32],
    max: f32,
    encode: fn(f32) -> u8,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let scale = row_scale(values, max);
    scales.copy_from_slice(&scale.to_le_bytes());
    for (code, value) in codes.iter_mut().zip(values) {
        *code = encode(value / scale);
    }
}

pub(super) fn decode_scaled(codes: &[u8], scales: &[u8], decode: fn(u8) -> f32, out: &mut [f32]) {
    let Some(scale) = scales.first_chunk().map(|bytes| f32::from_le_bytes(*bytes)) else { return };
    for (out, code) in out.iter_mut().zip(codes) {
        *out = decode(*code) * scale;
    }
}
