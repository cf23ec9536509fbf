//! A quantized matrix: codes, and the numbers that make weights of them.

use half::f16;
use joulewise_engine::Format;
use joulewise_kernels::format::{EncodedMatrix, bytes_to_f32, e8m0, fp8_e4m3};
use safetensors::Dtype;

use super::Part;
use super::codes::{Codes, Words};
use crate::checkpoint::bytes::Slice;
use crate::checkpoint::tensor::{Storage, read_by_rows};

/// `weight[n][k] = (code[n][k] - zero[n][group]) * scale[n][group] * tensor_scale`.
#[derive(Debug)]
pub(super) struct QuantizedMatrix {
    /// What error messages call the layout.
    pub(super) layout: &'static str,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) codes: Codes,
    pub(super) scales: Grid,
    pub(super) zero: Zero,
    pub(super) tensor_scale: f32,
    /// Group of each column where they are not consecutive (activation order).
    pub(super) groups: Option<Vec<u32>>,
}

/// Numbers for the tiles of a matrix.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) dtype: Dtype,
    pub(super) bytes: Slice,
    /// Rows and columns of a tile.
    pub(super) tile: (usize, usize),
    /// Distance of tiles that are neighbours along rows, and along columns.
    pub(super) strides: (usize, usize),
}

/// The code that means zero.
#[derive(Debug)]
pub(super) enum Zero {
    /// The same everywhere.
    Constant(i32),
    /// One for each group, a signed byte.
    Bytes(Grid),
    /// One for each group, packed like codes, plus a constant, in as many bits: row `n`, column `group`.
    Packed {
        /// The packed numbers.
        words: Words,
        /// What is added to each.
        offset: i32,
        /// Whether the sum keeps no more than the bits of a code.
        wraps: bool,
    },
}

impl Grid {
    /// A grid `[tile rows, tile columns]` over a matrix of `k` columns, whose tiles have these sizes; `[1]` and a
    /// scalar are one tile, `[n]` is a column.
    ///
    /// # Errors
    /// When the grid's shape does not cover the matrix.
    pub(super) fn over(part: &Part, (n, k): (usize, usize), tile: (usize, usize)) -> Result<Self, String> {
        let rows = n.div_ceil(tile.0);
        let cols = k.div_ceil(tile.1);
        let fits = match part.shape[..] {
            [] => rows * cols == 1,
            [len] => len == rows * cols && (rows == 1 || cols == 1),
            [r, c] => (r, c) == (rows, cols),
            _ => false,
        };
        match fits {
            true => Ok(Grid { dtype: part.dtype, bytes: part.bytes.clone(), tile, strides: (cols, 1) }),
            false => Err(format!("its scales have shape {:?}, expected [{rows}, {cols}]", part.shape)),
        }
    }

    /// Whether it holds numbers that [`Grid::at`] reads.
    pub(super) fn check(self, expected: &[Dtype]) -> Result<Self, String> {
        match expected.contains(&self.dtype) {
            true => Ok(self),
            false => Err(format!("its scales are stored as {}", self.dtype)),
        }
    }

    /// Bytes of a number; every format here has whole ones.
    fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    fn raw(&self, row: usize, group: usize) -> &[u8] {
        let index = row / self.tile.0 * self.strides.0 + group * self.strides.1;
        &self.bytes[index * self.width()..][..self.width()]
    }

    /// The number for a row and a group of columns.
    fn at(&self, row: usize, group: usize) -> f32 {
        let bytes = self.raw(row, group);
        let float = |format: Format| {
            let mut value = [f32::NAN];
            // The width is that of the format, so this cannot fail; if it did, NaN would be found.
            let _ = bytes_to_f32(format, bytes, &mut value);
            value[0]
        };
        match self.dtype {
            Dtype::F32 => float(Format::F32),
            Dtype::F16 => float(Format::F16),
            Dtype::BF16 => float(Format::Bf16),
            Dtype::F8_E4M3 => fp8_e4m3::decode(bytes[0]),
            Dtype::U8 | Dtype::F8_E8M0 => e8m0::decode(bytes[0]),
            Dtype::I8 => f32::from(bytes[0] as i8),
            _ => f32::NAN,
        }
    }
}

impl Zero {
    fn at(&self, row: usize, group: usize) -> f32 {
        match self {
            Zero::Constant(zero) => *zero as f32,
            Zero::Bytes(grid) => grid.at(row, group),
            Zero::Packed { words, offset, wraps } => {
                let zero = i32::from(words.get(row, group)) + offset;
                (if *wraps { zero & ((1 << words.bits) - 1) } else { zero }) as f32
            }
        }
    }
}

/// The number formats of scales.
pub(super) const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

/// The engine's blocks of 4-bit integers have a multiple of this many.
const INT4_BLOCK_UNIT: usize = 8;

impl QuantizedMatrix {
    fn group(&self, column: usize) -> usize {
        match &self.groups {
            Some(groups) => groups[column] as usize,
            None => column / self.scales.tile.1,
        }
    }

    /// Groups of consecutive columns.
    fn group_count(&self) -> usize {
        self.k.div_ceil(self.scales.tile.1)
    }

    /// Consecutive columns that share a scale; a row of one group may be thought longer than it is.
    fn group_len(&self) -> usize {
        match (&self.codes, self.group_count()) {
            (Codes::Words(_), 1) => self.k.next_multiple_of(INT4_BLOCK_UNIT),
            _ => self.scales.tile.1,
        }
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.at(row, group) * self.tensor_scale
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        self.codes.read_row(row, out);
        let is_consecutive = self.groups.is_none();
        let run = if is_consecutive { self.scales.tile.1 } else { 1 };
        for (i, out) in out.chunks_mut(run).enumerate() {
            let group = if is_consecutive { i } else { self.group(i) };
            let (zero, scale) = (self.zero.at(row, group), self.scale(row, group));
            for out in out {
                *out = (*out - zero) * scale;
            }
        }
    }

    /// Whether the code that means zero is this one everywhere.
    fn has_zero(&self, expected: i32) -> bool {
        match &self.zero {
            Zero::Constant(zero) => *zero == expected,
            zero => (0..self.n)
                .all(|row| (0..self.group_count()).all(|group| zero.at(row, group) == expected as f32)),
        }
    }

    /// One scale for each row in f32, where no row has more.
    fn row_scales(&self) -> Vec<u8> {
        (0..self.n).flat_map(|row| self.scale(row, 0).to_le_bytes()).collect()
    }
}

impl Storage for QuantizedMatrix {
    fn name(&self) -> String {
        self.layout.to_owned()
    }

    fn format(&self) -> Option<Format> {
        let has_one_per_row = self.group_count() == 1;
        let is_block = |dtypes: &[Dtype], len: usize| {
            dtypes.contains(&self.scales.dtype) && self.scales.tile == (1, len) && self.groups.is_none()
        };
        let format = match &self.codes {
            Codes::I8(_) if has_one_per_row && self.has_zero(0) => Format::Int8,
            Codes::E4m3(_) if has_one_per_row && self.has_zero(0) => Format::Fp8E4m3,
            Codes::E5m2(_) if has_one_per_row && self.has_zero(0) => Format::Fp8E5m2,
            Codes::E2m1(_) if is_block(&[Dtype::U8, Dtype::F8_E8M0], 32) => Format::Mxfp4,
            Codes::E2m1(_) if is_block(&[Dtype::F8_E4M3], 16) => Format::Nvfp4,
            // The engine's scales have 16 bits; f32 ones seldom fit, bf16 ones mostly do.
            Codes::Words(Words { bits: 4, .. })
                if self.groups.is_none()
                    && self.group_len().is_multiple_of(INT4_BLOCK_UNIT)
                    && self.has_zero(8) =>
            {
                let fits = |scale: f32| f16::from_f32(scale).to_f32() == scale;
                let all =
                    (0..self.n).all(|row| (0..self.group_count()).all(|group| fits(self.scale(row, group))));
                if all { Format::Int4 } else { Format::F32 }
            }
            _ => Format::F32,
        };
        Some(format)
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<(), String> {
        read_by_rows(self.k, start, out, |row, out| {
            self.read_row(row, out);
            Ok(())
        })
    }

    fn encoded(&self) -> Option<EncodedMatrix> {
        let format = self.format().filter(|format| *format != Format::F32)?;
        let (n, k, block_len) = (self.n, self.k, self.group_len());
        let blocks = || (0..n).flat_map(|row| (0..self.group_count()).map(move |group| (row, group)));
        let (data, scales, tensor_scale) = match &self.codes {
            Codes::I8(bytes) | Codes::E4m3(bytes) | Codes::E5m2(bytes) => {
                (bytes.to_vec(), self.row_scales(), 1.0)
            }
            Codes::E2m1(bytes) => {
                let padded = self.group_count() * block_len / 2;
                let mut data = vec![0; n * padded];
                for (row, stored) in data.chunks_exact_mut(padded).zip(bytes.chunks_exact(k.div_ceil(2))) {
                    row[..stored.len()].copy_from_slice(stored);
                    if !k.is_multiple_of(2) {
                        // Behind the row's end is nothing.
                        row[stored.len() - 1] &= 15;
                    }
                }
                let scales = blocks().map(|(row, group)| self.scales.raw(row, group)[0]).collect();
                (data, scales, self.tensor_scale)
            }
            Codes::Words(words) => {
                let padded = self.group_count() * block_len / 2;
                let mut data = vec![0; n * padded];
                for (row, bytes) in data.chunks_exact_mut(padded).enumerate() {
                    for column in 0..k {
                        // From 0 for -8 to two's complement.
                        bytes[column / 2] |= (words.get(row, column) ^ 8) << (column % 2 * 4);
                    }
                }
                let scales = blocks()
                    .flat_map(|(row, group)| f16::from_f32(self.scale(row, group)).to_le_bytes())
                    .collect();
                (data, scales, 1.0)
            }
        };
        EncodedMatrix::from_parts(format, (n, k), block_len, data, scales, tensor_scale).ok()
    }

    fn block_len(&self) -> Option<usize> {
        Some(self.group_len())
    }

    fn is_always_out_by_in(&self) -> bool {
        true
    }
}
