//! `nf4`: 16 quantiles of the normal distribution in blocks of 64 that share an `f32` scale, the block's largest
//! magnitude (Dettmers et al. 2023, "QLoRA", appendix E).

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind, e2m1, largest};

const BLOCK_LEN: usize = 64;

/// The code of zero.
const ZERO: u8 = 7;

/// The quantiles, as the appendix prints them.
pub(super) const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Cell by cell, a weight `w` of a block with largest magnitude `a` moves by at most `0.046 a` where the neighbouring
/// values are within 0.092 of each other and by at most `0.24 w` elsewhere, so its squared error is at most the sum of
/// the squares of both; `a^2` is part of the sum of `w^2` over 64 weights.
const NMSE_BOUND: f64 = 0.24 * 0.24 + 64.0 * 0.046 * 0.046;

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Nf4,
    name: "nf4",
    code_bits: 4,
    codes: Codes::Table(&VALUES),
    block: Block::Weights(BLOCK_LEN),
    scale: ScaleKind::F32,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row,
    decode_row,
};

fn encode_row(values: &[f32], layout: RowLayout, codes: &mut [u8], scales: &mut [u8]) {
    // A code is the number of cell borders, the middles between neighbouring values, below the value.
    let borders: [f32; 15] = std::array::from_fn(|i| (VALUES[i] + VALUES[i + 1]) / 2.0);
    let scales = scales.as_chunks_mut().0;
    for (b, (block, bytes)) in values.chunks(layout.block_len).zip(scales).enumerate() {
        let scale = largest(block);
        *bytes = scale.to_le_bytes();
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (i, value) in block.iter().enumerate() {
            let code = borders.iter().filter(|border| **border < value * inverse).count();
            e2m1::put(codes, b * layout.block_len + i, code as u8);
        }
        // Code 0 is not zero here, so the padding has to be written.
        for i in block.len()..layout.block_len {
            e2m1::put(codes, b * layout.block_len + i, ZERO);
        }
    }
}

fn decode_row(codes: &[u8], scales: &[u8], layout: RowLayout, out: &mut [f32]) {
    let scales = scales.as_chunks().0;
    for (b, (out, bytes)) in out.chunks_mut(layout.block_len).zip(scales).enumerate() {
        let scale = f32::from_le_bytes(*bytes);
        for (i, out) in out.iter_mut().enumerate() {
            *out = VALUES[e2m1::get(codes, b * layout.block_len + i)] * scale;
        }
    }
}
