//! `f16`: IEEE 754 half precision, 11 significant bits, largest value 65504, smallest normal 2^-14.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind};

/// Rounding to nearest with 11 significant bits moves a normal value `w` by at most `2^-11 |w|`, so every squared
/// error is at most `2^-22 w^2`, and so is their sum against the sum of `w^2`.
const NMSE_BOUND: f64 = 1.0 / (1u64 << 22) as f64;

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::F16,
    name: "f16",
    code_bits: 16,
    codes: Codes::F16,
    block: Block::Element,
    scale: ScaleKind::None,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row: narrow,
    decode_row: widen,
};

fn narrow(values: &[f32], _: RowLayout, bytes: &mut [u8], _: &mut [u8]) {
    if cfg!(target_endian = "little")
        && let Ok(halves) = bytemuck::try_cast_slice_mut::<u8, f16>(bytes)
    {
        halves.convert_from_f32_slice(values);
        return;
    }
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = f16::from_f32(*value).to_le_bytes();
    }
}

fn widen(bytes: &[u8], _: &[u8], _: RowLayout, out: &mut [f32]) {
    if cfg!(target_endian = "little")
        && let Ok(halves) = bytemuck::try_cast_slice::<u8, f16>(bytes)
    {
        halves.convert_to_f32_slice(out);
        return;
    }
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f16::from_le_bytes(*bytes).to_f32();
    }
}
