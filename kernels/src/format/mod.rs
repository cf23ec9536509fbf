//! The number formats weights are stored in: one table, one file and one row per format.
//!
//! A format's name is the same string in files, on the command line and in reports.
//! [`Format::ALL`] drives the tests, so a new row is tested without a new test.

mod bf16;
pub mod e2m1;
pub mod e8m0;
mod encoded;
mod f16;
mod f32;
pub mod fp8_e4m3;
pub mod fp8_e5m2;
mod int4;
pub(crate) mod int8;
mod minifloat;
mod mxfp4;
mod nf4;
mod nvfp4;

use std::fmt;
use std::str::FromStr;

use crate::error::{KernelError, Result};
pub use encoded::EncodedMatrix;

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
    /// 8-bit integers, one scale per row.
    Int8,
    /// 4-bit integers, one scale per block.
    Int4,
    /// 8-bit floats of 4 exponent bits, one scale per row.
    Fp8E4m3,
    /// 8-bit floats of 5 exponent bits, one scale per row.
    Fp8E5m2,
    /// 4-bit floats, one power of two per block of 32.
    Mxfp4,
    /// 4-bit floats, one 8-bit float per block of 16 and one scale per matrix.
    Nvfp4,
    /// 16 quantiles of the normal distribution, one scale per block of 64.
    Nf4,
}

/// How the scale of a row or block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleKind {
    /// Every weight stands for itself.
    None,
    /// `f32`.
    F32,
    /// IEEE half precision.
    F16,
    /// A power of two, see [`e8m0`].
    E8m0,
    /// An 8-bit float, see [`fp8_e4m3`]; it multiplies the scale of the whole matrix.
    E4m3,
}

impl ScaleKind {
    /// Bytes of a scale.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::E8m0 | Self::E4m3 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// How many weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Block {
    /// Each weight stands alone; there are no scales.
    Element,
    /// A whole row, that is an output channel.
    Row,
    /// So many consecutive weights of a row; rows are padded with zeros to whole blocks.
    Weights(usize),
}

/// What codes mean before scales: all that products have to know of a format, so that formats which differ in nothing
/// else share their kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Codes {
    F32,
    F16,
    Bf16,
    /// Two's complement.
    Int8,
    /// 8-bit floats, see [`fp8_e4m3`].
    E4m3,
    /// 8-bit floats, see [`fp8_e5m2`].
    E5m2,
    /// Any 16 values, 4 bits each.
    Table(&'static [f32; 16]),
}

/// What there is to know about a format; a row of the table.
#[derive(Debug)]
#[non_exhaustive]
pub struct FormatSpec {
    /// The format this row describes.
    pub format: Format,
    /// Its name everywhere.
    pub name: &'static str,
    /// Bits of a weight's code.
    pub code_bits: usize,
    /// What the codes mean.
    pub(crate) codes: Codes,
    /// The weights that share a scale.
    pub block: Block,
    /// How that scale is stored.
    pub scale: ScaleKind,
    /// Bound on `|decode(encode(w)) - w|^2 / |w|^2` for weights in the format's normal range; for formats with one
    /// scale per row, for rows whose largest weight is at most [`CREST`] times their root mean square.
    /// The derivation stands in the format's file.
    pub nmse_bound: f64,
    /// The scale of the whole matrix, from its largest magnitude; 1 unless the format has one.
    tensor_scale: fn(amax: f32) -> f32,
    /// Codes and scales of one row; `codes` and `scales` are zero before.
    pub(crate) encode_row: fn(values: &[f32], layout: RowLayout, codes: &mut [u8], scales: &mut [u8]),
    /// The reverse.
    pub(crate) decode_row: fn(codes: &[u8], scales: &[u8], layout: RowLayout, out: &mut [f32]),
}

/// What a row's codes and scales mean beyond their bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLayout {
    /// Weights that share a scale.
    pub(crate) block_len: usize,
    /// The scale of the whole matrix.
    pub(crate) tensor_scale: f32,
}

/// Largest ratio of a row's largest weight to its root mean square for which the error bounds of the formats with one
/// scale per row hold. One normally distributed weight in five hundred million is larger.
pub const CREST: f64 = 6.0;

impl Format {
    /// Every format, in the order of the table.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Int8,
        Self::Int4,
        Self::Fp8E4m3,
        Self::Fp8E5m2,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Nf4,
    ];

    /// The formats without scales: those that checkpoints, activations and caches are kept in.
    pub const FLOATS: &'static [Self] = &[Self::F32, Self::F16, Self::Bf16];

    /// The row of the table.
    pub fn spec(self) -> &'static FormatSpec {
        match self {
            Self::F32 => &f32::SPEC,
            Self::F16 => &f16::SPEC,
            Self::Bf16 => &bf16::SPEC,
            Self::Int8 => &int8::SPEC,
            Self::Int4 => &int4::SPEC,
            Self::Fp8E4m3 => &fp8_e4m3::SPEC,
            Self::Fp8E5m2 => &fp8_e5m2::SPEC,
            Self::Mxfp4 => &mxfp4::SPEC,
            Self::Nvfp4 => &nvfp4::SPEC,
            Self::Nf4 => &nf4::SPEC,
        }
    }

    /// The name, such as `bf16`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether every weight stands for itself, in one of [`Format::FLOATS`].
    pub fn is_float(self) -> bool {
        self.spec().block == Block::Element
    }

    /// Whether rows cannot be rounded before the largest magnitude of the whole matrix is known.
    pub fn has_tensor_scale(self) -> bool {
        self.spec().scale == ScaleKind::E4m3
    }

    /// Rounds `values [n, k]` (row-major) to this format.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] unless there are `n * k` values.
    pub fn encode(self, values: &[f32], n: usize, k: usize) -> Result<EncodedMatrix> {
        EncodedMatrix::encode(self, values, n, k)
    }

    /// Widens `out.len()` elements of a format without scales, whatever their alignment.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        let layout = RowLayout { block_len: 1, tensor_scale: 1.0 };
        (self.spec().decode_row)(bytes, &[], layout, out);
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
    /// Weights that share a scale in a matrix of `k` columns.
    pub fn block_len(&self, k: usize) -> usize {
        match self.block {
            Block::Element => 1,
            Block::Row => k.max(1),
            Block::Weights(len) => len,
        }
    }

    /// Storage per weight, scales included, in the limit of long rows.
    pub fn bits_per_weight(&self) -> f64 {
        let scale = match self.block {
            Block::Element | Block::Row => 0.0,
            Block::Weights(len) => 8.0 * self.scale.size_bytes() as f64 / len as f64,
        };
        self.code_bits as f64 + scale
    }

    /// Bytes of the codes of a row.
    pub fn code_bytes(&self, k: usize) -> usize {
        (k.next_multiple_of(self.padded_to(k)) * self.code_bits).div_ceil(8)
    }

    /// Bytes of the scales of a row.
    pub fn scale_bytes(&self, k: usize) -> usize {
        k.div_ceil(self.block_len(k)) * self.scale.size_bytes()
    }

    /// Bytes of a matrix `[n, k]`, codes and scales.
    pub fn encoded_bytes(&self, n: usize, k: usize) -> usize {
        n.saturating_mul(self.code_bytes(k).saturating_add(self.scale_bytes(k)))
    }

    /// Rows are padded to a multiple of this: the formats with one scale per row use whole bytes already.
    fn padded_to(&self, k: usize) -> usize {
        if self.block == Block::Row { 1 } else { self.block_len(k) }
    }
}

/// Converts little-endian elements of a float format to `f32`, as a checkpoint stores them.
///
/// # Errors
///
/// [`KernelError::Shape`] when `bytes` does not hold exactly `out.len()` elements, or when the format has scales.
pub fn bytes_to_f32(format: Format, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    const OP: &str = "bytes_to_f32";
    if !format.is_float() {
        return Err(KernelError::Shape {
            op: OP,
            what: "weights per scale",
            expected: 1,
            got: format.spec().block_len(out.len()),
        });
    }
    let expected = format.spec().code_bytes(out.len());
    if bytes.len() != expected {
        return Err(KernelError::Shape { op: OP, what: "bytes", expected, got: bytes.len() });
    }
    format.widen(bytes, out);
    Ok(())
}

/// The largest finite magnitude; NaN and infinities are left out, so that one bad weight does not spoil its block.
pub(crate) fn largest(values: &[f32]) -> f32 {
    // The bits of magnitudes are ordered as the magnitudes are, and compilers find the maximum of integers in vectors.
    let magnitude = |value: &f32| value.abs().to_bits();
    let finite = |bits: u32| if bits < f32::INFINITY.to_bits() { bits } else { 0 };
    f32::from_bits(values.iter().map(|value| finite(magnitude(value))).fold(0, u32::max))
}

/// What maps the largest magnitude of a row to `max`.
pub(crate) fn row_scale(values: &[f32], max: f32) -> f32 {
    scale_of(largest(values), max)
}

/// What maps `amax` to `max`; 1 for zero, and at least the smallest normal number, so that dividing by it stays finite.
pub(crate) fn scale_of(amax: f32, max: f32) -> f32 {
    if amax == 0.0 { 1.0 } else { (amax / max).max(f32::MIN_POSITIVE) }
}
