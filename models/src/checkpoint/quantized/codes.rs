//! The codes of a quantized matrix `[n, k]`, in the packings that are found in files.

use std::sync::LazyLock;

use joulewise_kernels::format::{e2m1, fp8_e4m3, fp8_e5m2};

use crate::checkpoint::bytes::Slice;

/// Codes, and how they are packed.
#[derive(Debug)]
pub(super) enum Codes {
    /// Integers from -128 to 127, `[n, k]`.
    I8(Slice),
    /// 8-bit floats, `[n, k]`.
    E4m3(Slice),
    /// 8-bit floats, `[n, k]`.
    E5m2(Slice),
    /// 4-bit floats, `[n, k / 2]` rounded up, the first of a byte's two in the low nibble.
    E2m1(Slice),
    /// Unsigned integers in 32-bit words.
    Words(Words),
}

/// Unsigned integers of 2, 4 or 8 bits for outputs `n` and inputs (or groups of them) `k`, in little-endian 32-bit
/// words, the first in the lowest bits.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) words: Slice,
    pub(super) bits: usize,
    /// Whose neighbours share a word.
    pub(super) within: Within,
    /// What a line of words belongs to.
    pub(super) line: Line,
    /// Words of a line.
    pub(super) stride: usize,
}

/// Whose neighbours share a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Inputs,
    Outputs,
    /// Eight outputs, even ones first (AWQ).
    InterleavedOutputs,
}

/// What a line of words belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// One output, or those that share a word.
    Output,
    /// One input, or those that share a word.
    Input,
}

/// Place of each of eight outputs in a word of AWQ, which has them in the order 0, 2, 4, 6, 1, 3, 5, 7.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

static E4M3: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| fp8_e4m3::decode(code as u8)));
static E5M2: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| fp8_e5m2::decode(code as u8)));

impl Codes {
    /// The values of a row's codes, before zero points and scales.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        let k = out.len();
        match self {
            Codes::I8(bytes) => {
                for (out, code) in out.iter_mut().zip(&bytes[row * k..]) {
                    *out = f32::from(*code as i8);
                }
            }
            Codes::E4m3(bytes) => look_up(&E4M3, &bytes[row * k..], out),
            Codes::E5m2(bytes) => look_up(&E5M2, &bytes[row * k..], out),
            Codes::E2m1(bytes) => {
                let bytes = &bytes[row * k.div_ceil(2)..];
                for (i, out) in out.iter_mut().enumerate() {
                    *out = e2m1::VALUES[usize::from(bytes[i / 2] >> (i % 2 * 4) & 15)];
                }
            }
            Codes::Words(words) => {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f32::from(words.get(row, i));
                }
            }
        }
    }
}

impl Words {
    /// The code of an output and an input.
    pub(super) fn get(&self, n: usize, k: usize) -> u8 {
        let per_word = 32 / self.bits;
        let (n, k, place) = match self.within {
            Within::Inputs => (n, k / per_word, k % per_word),
            Within::Outputs => (n / per_word, k, n % per_word),
            Within::InterleavedOutputs => (n / 8, k, AWQ_PLACES[n % 8]),
        };
        let word = match self.line {
            Line::Output => n * self.stride + k,
            Line::Input => k * self.stride + n,
        };
        let bytes = self.words[4 * word..].first_chunk().copied().unwrap_or_default();
        // At most eight bits are left.
        (u32::from_le_bytes(bytes) >> (place * self.bits) & ((1 << self.bits) - 1)) as u8
    }
}

fn look_up(table: &[f32; 256], codes: &[u8], out: &mut [f32]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = table[usize::from(*code)];
    }
}
