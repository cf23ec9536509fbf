//! `nvfp4`: 4-bit floats ([`e2m1`]) in blocks of 16 that share an 8-bit float ([`fp8_e4m3`]), under one `f32` scale for
//! the matrix (NVIDIA, "Pretraining large language models with NVFP4", 2025, appendix; the order of operations is that
//! of Model Optimizer's encoder).

use super::{Block, Codes, Format, FormatSpec, RowLayout, ScaleKind, e2m1, fp8_e4m3, largest};

const BLOCK_LEN: usize = 16;

/// The smallest scale of a block other than zero.
const MIN_BLOCK_SCALE: f32 = 1.0 / 512.0;

/// As for `mxfp4` with blocks of 16, where the scale is at most `17/16 a / 6`: rounding it may add a sixteenth. When it
/// is rounded down, values of up to 6.4 are clipped to 6, which is within the fifth.
const NMSE_BOUND: f64 = 1.0 / 25.0 + 16.0 * (17.0 / 16.0 / 24.0) * (17.0 / 16.0 / 24.0);

pub(super) const SPEC: FormatSpec = FormatSpec {
    format: Format::Nvfp4,
    name: "nvfp4",
    code_bits: 4,
    codes: Codes::Table(&e2m1::VALUES),
    block: Block::Weights(BLOCK_LEN),
    scale: ScaleKind::E4m3,
    nmse_bound: NMSE_BOUND,
    // The largest block scale becomes the largest E4M3 number; a matrix of zeros needs none.
    tensor_scale: |amax| {
        if amax == 0.0 { 1.0 } else { (amax / (e2m1::MAX * fp8_e4m3::MAX)).max(f32::MIN_POSITIVE) }
    },
    encode_row,
    decode_row,
};

fn encode_row(values: &[f32], layout: RowLayout, codes: &mut [u8], scales: &mut [u8]) {
    for (b, (block, code)) in values.chunks(layout.block_len).zip(scales).enumerate() {
        let scale = match largest(block) / (e2m1::MAX * layout.tensor_scale) {
            0.0 => 1.0,
            scale => scale.clamp(MIN_BLOCK_SCALE, fp8_e4m3::MAX),
        };
        *code = fp8_e4m3::encode(scale);
        let scale = fp8_e4m3::decode(*code) * layout.tensor_scale;
        for (i, value) in block.iter().enumerate() {
            e2m1::put(codes, b * layout.block_len + i, e2m1::encode(value / scale));
        }
    }
}

fn decode_row(codes: &[u8], scales: &[u8], layout: RowLayout, out: &mut [f32]) {
    for (b, (out, code)) in out.chunks_mut(layout.block_len).zip(scales).enumerate() {
        let scale = fp8_e4m3::decode(*code) * layout.tensor_scale;
        for (i, out) in out.iter_mut().enumerate() {
            *out = e2m1::VALUES[e2m1::get(codes, b * layout.block_len + i)] * scale;
        }
    }
}
