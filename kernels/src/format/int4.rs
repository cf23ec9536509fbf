//! `int4`: integers from -8 to 7 in blocks that share a half-precision scale, symmetric.
//!
//! The block's largest magnitude becomes 7.5 steps, so that both ends of the range are used (the rule of
//! compressed-tensors). Our own blocks have 128 weights; checkpoints bring 32 and 64 too.

use half::f16;

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind, e2m1, largest};

const BLOCK_LEN: usize = 128;

/// The steps that the largest magnitude of a block becomes.
const STEPS: f32 = 7.5;

/// A weight moves by at most half a step, up to a rounding of the scale that `2^-10` covers; the step is the block's
/// largest magnitude `a` over 7.5, and `a^2` is part of the sum of squares of its 128 weights.
const NMSE_BOUND: f64 = 128.0 / (4.0 * 7.5 * 7.5) * (1.0 + 1.0 / 1024.0) * (1.0 + 1.0 / 1024.0);

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Int4,
    name: "int4",
    code_bits: 4,
    codes: Codes::Table(&VALUES),
    block: Block::Weights(BLOCK_LEN),
    scale: ScaleKind::F16,
    nmse_bound: NMSE_BOUND,
    tensor_scale: |_| 1.0,
    encode_row,
    decode_row,
};

fn encode_row(values: &[f32], layout: RowLayout, codes: &mut [u8], scales: &mut [u8]) {
    let scales = scales.as_chunks_mut().0;
    for (b, (block, bytes)) in values.chunks(layout.block_len).zip(scales).enumerate() {
        let stored = f16::from_f32((largest(block) / STEPS).min(f16::MAX.to_f32()));
        *bytes = stored.to_le_bytes();
        let scale = stored.to_f32();
        if scale == 0.0 {
            continue;
        }
        for (i, value) in block.iter().enumerate() {
            let code = (value / scale).round_ties_even().clamp(-8.0, 7.0) as i8;
            e2m1::put(codes, b * layout.block_len + i, code as u8 & 15);
        }
    }
}

fn decode_row(codes: &[u8], scales: &[u8], layout: RowLayout, out: &mut [f32]) {
    let scales = scales.as_chunks().0;
    for (b, (out, bytes)) in out.chunks_mut(layout.block_len).zip(scales).enumerate() {
        let scale = f16::from_le_bytes(*bytes).to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            *out = VALUES[e2m1::get(codes, b * layout.block_len + i)] * scale;
        }
    }
}

/// The values of the codes, two's complement in four bits.
const VALUES: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0];
