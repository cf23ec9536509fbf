//! The number formats weights are stored in: one table, one file and one row per format.
//!
//! A format's name is the same string in files, on the command line and in reports.
//! [`Format::ALL`] drives the tests, so a new row is tested without a new test.

mod bf16;
mod f16;
mod f32;

use std::fmt;
use std::str::FromStr;

use crate::error::{KernelError, Result};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
}

/// The scales that belong to a block of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleKind {
    /// Every weight stands for itself.
    None,
}

/// What there is to know about a format; a row of the table.
#[derive(Debug)]
#[non_exhaustive]
pub struct FormatSpec {
    /// The format this row describes.
    pub format: Format,
    /// Its name everywhere.
    pub name: &'static str,
    /// Storage per weight, scales included.
    pub bits_per_weight: f64,
    /// Consecutive weights of a row that share a scale; 1 without scales.
    pub block_len: usize,
    /// The kind of those scales.
    pub scale: ScaleKind,
    /// Rounds `values [n, k]` (row-major, `n * k` elements) to this format.
    pub encode: fn(values: &[f32], n: usize, k: usize) -> EncodedMatrix,
    /// Widens an encoded matrix to `out [n, k]`.
    pub decode: fn(encoded: &EncodedMatrix, out: &mut [f32]),
    /// Bound on `|decode(encode(w)) - w|^2 / |w|^2` for weights in the format's normal range.
    /// The derivation stands in the format's file.
    pub nmse_bound: f64,
}

/// A matrix `[n, k]` in a storage format, row-major, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodedMatrix {
    /// The format of `data`.
    pub format: Format,
    /// Rows (output features).
    pub n: usize,
    /// Columns (input features).
    pub k: usize,
    /// The weights, row after row.
    pub data: Vec<u8>,
}

impl Format {
    /// Every format, in the order of the table.
    pub const ALL: &'static [Self] = &[Self::F32, Self::F16, Self::Bf16];

    /// The row of the table.
    pub fn spec(self) -> &'static FormatSpec {
        match self {
            Self::F32 => &f32::SPEC,
            Self::F16 => &f16::SPEC,
            Self::Bf16 => &bf16::SPEC,
        }
    }

    /// The name, such as `bf16`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Bytes of one weight; the formats of this table all use whole bytes.
    pub(crate) const fn element_size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Rounds `values` into `bytes`, which holds `values.len()` elements and is aligned for them.
    pub(crate) fn narrow(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => f32::narrow(values, bytes),
            Self::F16 => f16::narrow(values, bytes),
            Self::Bf16 => bf16::narrow(values, bytes),
        }
    }

    /// Widens `out.len()` elements of `bytes`, whatever their alignment.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => f32::widen(bytes, out),
            Self::F16 => f16::widen(bytes, out),
            Self::Bf16 => bf16::widen(bytes, out),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|format| format.name() == name)
            .ok_or_else(|| KernelError::UnknownFormat(name.to_owned()))
    }
}

impl FormatSpec {
    /// Bytes of a matrix `[n, k]`; a row is padded to whole blocks.
    pub fn encoded_bytes(&self, n: usize, k: usize) -> usize {
        let padded_k = k.next_multiple_of(self.block_len);
        (n as f64 * padded_k as f64 * self.bits_per_weight / 8.0) as usize
    }
}

/// Converts little-endian elements of a float format to `f32`, as a checkpoint stores them.
///
/// # Errors
///
/// [`KernelError::Shape`] when `bytes` does not hold exactly `out.len()` elements.
pub fn bytes_to_f32(format: Format, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let expected = out.len().saturating_mul(format.element_size());
    if bytes.len() != expected {
        return Err(KernelError::Shape { op: "bytes_to_f32", what: "bytes", expected, got: bytes.len() });
    }
    format.widen(bytes, out);
    Ok(())
}

fn encode_elements(format: Format, values: &[f32], n: usize, k: usize) -> EncodedMatrix {
    assert_eq!(values.len(), n * k, "a matrix [n, k] has n * k values");
    let mut data = vec![0; values.len() * format.element_size()];
    format.narrow(values, &mut data);
    EncodedMatrix { format, n, k, data }
}

fn decode_elements(encoded: &EncodedMatrix, out: &mut [f32]) {
    assert_eq!(out.len(), encoded.n * encoded.k, "a matrix [n, k] has n * k values");
    encoded.format.widen(&encoded.data, out);
}
