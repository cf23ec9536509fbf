//! `mxfp4`: 4-bit floats ([`e2m1`]) in blocks of 32 that share a power of two ([`e8m0`]) (OCP Microscaling Formats v1.0).
//!
//! The specification leaves the choice of the scale open. Here it is the smallest one under which nothing is clipped
//! (round to infinity, as NVIDIA's conversion instructions do); decoding is the same for every rule.

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind, e2m1, e8m0, largest};

const BLOCK_LEN: usize = 32;

/// A value of at least half a step above the lowest cells moves by at most a fifth of it, one in the two lowest cells by
/// at most 1/4 in units of the scale; the scale is below a third of the block's largest magnitude `a`. So the squared
/// errors sum to at most `w^2 / 25 + 32 (a / 12)^2`, and `a^2` is part of the sum of `w^2`.
const NMSE_BOUND: f64 = 1.0 / 25.0 + 32.0 / 144.0;

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Mxfp4,
    name: "mxfp4",
    code_bits: 4,
    codes: Codes::Table(&e2m1::VALUES),
    block: Block::Weights(BLOCK_LEN),
    scale: ScaleKind::E8m0,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row,
    decode_row,
};

fn encode_row(values: &[f32], layout: RowLayout, codes: &mut [u8], scales: &mut [u8]) {
    for (b, (block, code)) in values.chunks(layout.block_len).zip(scales).enumerate() {
        *code = e8m0::encode_up(f64::from(largest(block)) / f64::from(e2m1::MAX));
        let scale = e8m0::decode(*code);
        for (i, value) in block.iter().enumerate() {
            e2m1::put(codes, b * layout.block_len + i, e2m1::encode(value / scale));
        }
    }
}

fn decode_row(codes: &[u8], scales: &[u8], layout: RowLayout, out: &mut [f32]) {
    for (b, (out, code)) in out.chunks_mut(layout.block_len).zip(scales).enumerate() {
        let scale = e8m0::decode(*code);
        for (i, out) in out.iter_mut().enumerate() {
            *out = e2m1::VALUES[e2m1::get(codes, b * layout.block_len + i)] * scale;
        }
    }
}
