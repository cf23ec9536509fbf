//! `f32`: IEEE 754 single precision, the format of all activations.

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind};

/// Nothing is rounded, so the error is zero.
pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::F32,
    name: "f32",
    code_bits: 32,
    codes: Codes::F32,
    block: Block::Element,
    scale: ScaleKind::None,
    nmse_bound: 0.0,
    tensor_scale: |_| 1.0,
    encode_row: narrow,
    decode_row: widen,
};

fn narrow(values: &[f32], _: RowLayout, bytes: &mut [u8], _: &mut [u8]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = value.to_le_bytes();
    }
}

fn widen(bytes: &[u8], _: &[u8], _: RowLayout, out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_le_bytes(*bytes);
    }
}
