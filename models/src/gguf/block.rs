//! How GGUF stores numbers: one row per tensor type, in blocks of consecutive elements of a row.
//!
//! Block layouts: `ggml-common.h` of <https://github.com/ggml-org/ggml>. A scale times a code is one f32 product, in
//! the order that ggml has, so decoded values agree with it bit by bit.

use half::{bf16, f16};
use joulewise_engine::Format;

/// A row of the table.
pub(super) struct BlockType {
    /// Number in the file.
    kind: u32,
    /// ggml's name.
    pub(super) name: &'static str,
    /// Elements of a block.
    pub(super) elements: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// The engine's format that holds every value without loss.
    pub(super) format: Format,
    /// Decodes one block: `bytes` to `elements`.
    decode: fn(&[u8], &mut [f32]),
    /// Where `format` has scales: appends the codes and the scale of one block as the engine has them.
    pub(super) split: Option<Split>,
}

/// Appends codes and scale of a block.
type Split = fn(block: &[u8], codes: &mut Vec<u8>, scales: &mut Vec<u8>);

impl std::fmt::Debug for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn row(
    (kind, name): (u32, &'static str),
    (elements, bytes): (usize, usize),
    format: Format,
    decode: fn(&[u8], &mut [f32]),
    split: Option<Split>,
) -> BlockType {
    BlockType { kind, name, elements, bytes, format, decode, split }
}

static TYPES: &[BlockType] = &[
    row((0, "F32"), (1, 4), Format::F32, |bytes, out| out[0] = single(bytes), None),
    row((1, "F16"), (1, 2), Format::F16, |bytes, out| out[0] = half(bytes), None),
    row((30, "BF16"), (1, 2), Format::Bf16, |bytes, out| out[0] = brain(bytes), None),
    row((8, "Q8_0"), (32, 34), Format::F32, q8_0, None),
    row((2, "Q4_0"), (32, 18), Format::Int4, q4_0, Some(split_q4_0)),
    row((3, "Q4_1"), (32, 20), Format::F32, q4_1, None),
    row((6, "Q5_0"), (32, 22), Format::F32, q5_0, None),
    row((7, "Q5_1"), (32, 24), Format::F32, q5_1, None),
    row((12, "Q4_K"), (256, 144), Format::F32, q4_k, None),
    row((13, "Q5_K"), (256, 176), Format::F32, q5_k, None),
    row((14, "Q6_K"), (256, 210), Format::F32, q6_k, None),
    row((39, "MXFP4"), (32, 17), Format::Mxfp4, mxfp4, Some(split_mxfp4)),
];

/// Types that are not read, for the error message.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

impl BlockType {
    /// The row of a type's number.
    ///
    /// # Errors
    /// The name of a type without a row.
    pub(super) fn find(kind: u32) -> Result<&'static BlockType, String> {
        TYPES.iter().find(|row| row.kind == kind).ok_or_else(|| {
            let name = OTHERS.iter().find(|(other, _)| *other == kind).map(|(_, name)| (*name).to_owned());
            name.unwrap_or_else(|| format!("type {kind}"))
        })
    }

    /// Decodes the blocks of a row.
    pub(super) fn decode_row(&self, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.elements)) {
            (self.decode)(block, out);
        }
    }
}

fn single(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn brain(bytes: &[u8]) -> f32 {
    bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The f16 at the start of `bytes`.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Calls `set(index, code)` for the 32 codes of 16 bytes: low nibbles first, then the high ones.
fn nibbles(bytes: &[u8], mut set: impl FnMut(usize, u8)) {
    for (index, byte) in bytes.iter().enumerate() {
        set(index, byte & 15);
        set(index + bytes.len(), byte >> 4);
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    for (code, out) in block[2..].iter().zip(out) {
        *out = f32::from(*code as i8) * d;
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    nibbles(&block[2..], |i, code| out[i] = d * (f32::from(code) - 8.0));
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half(block), half(&block[2..]));
    nibbles(&block[4..], |i, code| out[i] = d * f32::from(code) + min);
}

/// The fifth bits of 32 codes.
fn fifth_bits(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (half(block), fifth_bits(&block[2..]));
    nibbles(&block[6..], |i, code| {
        let code = u32::from(code) | (high >> i & 1) << 4;
        out[i] = d * (code as f32 - 16.0);
    });
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, min, high) = (half(block), half(&block[2..]), fifth_bits(&block[4..]));
    nibbles(&block[8..], |i, code| {
        let code = u32::from(code) | (high >> i & 1) << 4;
        out[i] = d * code as f32 + min;
    });
}

/// The 6-bit scale and minimum of sub-block `j` of eight, from the 12 bytes they are packed into: the first four pairs
/// have their six bits in bytes 0..8, the others four bits in bytes 8..12 and two more on top of the first four.
fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4;
        let min = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        (scale, min)
    }
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, d_min) = (half(block), half(&block[2..]));
    let (packed, codes) = block[4..].split_at(12);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, j);
        let (d, min) = (d * f32::from(scale), d_min * f32::from(min));
        // Two sub-blocks share 32 bytes, one in the low nibbles, one in the high ones.
        for (byte, out) in codes[j / 2 * 32..].iter().zip(out) {
            *out = d * f32::from(byte >> (j % 2 * 4) & 15) - min;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, d_min) = (half(block), half(&block[2..]));
    let (packed, rest) = block[4..].split_at(12);
    let (high, codes) = rest.split_at(32);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, j);
        let (d, min) = (d * f32::from(scale), d_min * f32::from(min));
        for ((byte, high), out) in codes[j / 2 * 32..].iter().zip(high).zip(out) {
            let code = byte >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
            *out = d * f32::from(code) - min;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half(d);
    for (i, out) in out.iter_mut().enumerate() {
        // Half the block has 64 bytes of low nibbles and 32 bytes of upper bit pairs.
        let (part, within) = (i / 128, i % 128);
        let nibble = low[part * 64 + within % 64] >> (within / 64 * 4) & 15;
        let pair = high[part * 32 + within % 32] >> (within / 32 * 2) & 3;
        let code = (nibble | pair << 4) as i8 - 32;
        *out = d * f32::from(scales[i / 16] as i8) * f32::from(code);
    }
}

/// E2M1 times two, so that codes are whole numbers; the scale is halved in turn.
const DOUBLED_E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

fn mxfp4(block: &[u8], out: &mut [f32]) {
    // 2^(e - 128): below the smallest normal number there are two subnormal ones.
    let half_scale = match u32::from(block[0]) {
        255 => f32::NAN,
        exponent @ (0 | 1) => f32::from_bits(0x0020_0000 << exponent),
        exponent => f32::from_bits((exponent - 1) << 23),
    };
    nibbles(&block[1..], |i, code| out[i] = half_scale * DOUBLED_E2M1[usize::from(code)]);
}

/// 4-bit codes from the order of halves of a block to that of neighbours, the first in the low nibble.
fn in_pairs(halves: &[u8], flip: u8, codes: &mut Vec<u8>) {
    let code = |i: usize| halves[i % 16] >> (i / 16 * 4) & 15 ^ flip;
    codes.extend((0..16).map(|pair| code(2 * pair) | code(2 * pair + 1) << 4));
}

/// From 0 for -8 to two's complement.
fn split_q4_0(block: &[u8], codes: &mut Vec<u8>, scales: &mut Vec<u8>) {
    scales.extend(&block[..2]);
    in_pairs(&block[2..], 8, codes);
}

fn split_mxfp4(block: &[u8], codes: &mut Vec<u8>, scales: &mut Vec<u8>) {
    scales.push(block[0]);
    in_pairs(&block[1..], 0, codes);
}
