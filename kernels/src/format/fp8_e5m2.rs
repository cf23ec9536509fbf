//! `fp8_e5m2`: 1 sign, 5 exponent and 2 mantissa bits, bias 15, with infinities (Micikevicius et al. 2022): the upper
//! half of an IEEE half. As a weight format, one `f32` scale per row that maps its largest magnitude to 57344.

use super::fp8_e4m3::{decode_scaled, encode_scaled};
use super::minifloat::{decode_magnitude, encode_magnitude};
use super::{Block, CREST, Codes, Format, FormatSpec, ScaleKind};

/// The largest finite value.
pub const MAX: f32 = 57344.0;

/// Rounding with 3 significant bits moves a normal value by at most `2^-3` of it; below the smallest normal `2^-14` it
/// moves by at most `2^-17` in units of the scale, which is at most [`CREST`] root mean squares over 57344.
const NMSE_BOUND: f64 = 1.0 / 64.0 + (CREST / 57344.0 / 131072.0) * (CREST / 57344.0 / 131072.0);

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Fp8E5m2,
    name: "fp8_e5m2",
    code_bits: 8,
    codes: Codes::E5m2,
    block: Block::Row,
    scale: ScaleKind::F32,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row: |values, _, codes, scales| encode_scaled(values, MAX, encode, codes, scales),
    decode_row: |codes, scales, _, out| decode_scaled(codes, scales, decode, out),
};

/// The nearest code, ties to even; magnitudes beyond 57344, infinities too, saturate, NaN stays NaN.
pub fn encode(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    sign | if value.is_nan() { 0x7f } else { encode_magnitude(value.abs(), 2, 15, MAX) }
}

/// The value of a code.
pub fn decode(code: u8) -> f32 {
    let magnitude = match code & 0x7f {
        0x7c => f32::INFINITY,
        nan if nan > 0x7c => f32::NAN,
        finite => decode_magnitude(finite, 2, 15),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}
