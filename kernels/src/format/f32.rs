//! `f32`: IEEE 754 single precision, the format of all activations.

use super::{Format, FormatSpec, ScaleKind, decode_elements, encode_elements};

/// Nothing is rounded, so the error is zero.
pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::F32,
    name: "f32",
    bits_per_weight: 32.0,
    block_len: 1,
    scale: ScaleKind::None,
    encode: |values, n, k| encode_elements(Format::F32, values, n, k),
    decode: decode_elements,
    nmse_bound: 0.0,
};

pub(super) fn narrow(values: &[f32], bytes: &mut [u8]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = value.to_le_bytes();
    }
}

pub(super) fn widen(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_le_bytes(*bytes);
    }
}
