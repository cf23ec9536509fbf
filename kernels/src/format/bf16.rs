//! `bf16`: the upper 16 bits of an `f32`, 8 significant bits, the full exponent range.

use half::bf16;

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind};

/// Rounding to nearest with 8 significant bits moves a normal value `w` by at most `2^-8 |w|`, so every squared
/// error is at most `2^-16 w^2`, and so is their sum against the sum of `w^2`.
const NMSE_BOUND: f64 = 1.0 / (1u64 << 16) as f64;

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Bf16,
    name: "bf16",
    code_bits: 16,
    codes: Codes::Bf16,
    block: Block::Element,
    scale: ScaleKind::None,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row: narrow,
    decode_row: widen,
};

fn narrow(values: &[f32], _: RowLayout, bytes: &mut [u8], _: &mut [u8]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = bf16::from_f32(*value).to_le_bytes();
    }
}

fn widen(bytes: &[u8], _: &[u8], _: RowLayout, out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = bf16::from_le_bytes(*bytes).to_f32();
    }
}
