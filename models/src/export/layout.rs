//! Which tensors a quantized matrix becomes, and their bytes.
//!
//! | format | tensors |
//! |---|---|
//! | int8, fp8 | `weight` `[n, k]`, `weight_scale` f32 `[n, 1]` |
//! | int4 | `weight_packed` i32 `[n, k / 8]`, codes plus 8; `weight_scale` f16 `[n, groups]`; `weight_shape` i64 `[2]` |
//! | mxfp4 | `weight_packed` u8 `[n, k / 2]`, `weight_scale` u8 `[n, k / 32]` |
//! | nvfp4 | `weight_packed` u8 `[n, k / 2]`, `weight_scale` E4M3 `[n, k / 16]`, `weight_global_scale` f32 `[1]`, which divides |

use joulewise_engine::{EngineError, Format};
use joulewise_kernels::format::EncodedMatrix;
use safetensors::Dtype;

use super::unwritable;
use crate::error::Result;

/// A tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Piece {
    /// A tensor of numbers that stand for themselves.
    pub(super) fn plain(name: &str, format: Format, shape: Vec<usize>) -> Result<Self> {
        let dtype = match format {
            Format::F32 => Dtype::F32,
            Format::F16 => Dtype::F16,
            Format::Bf16 => Dtype::BF16,
            _ => return Err(unwritable(name, format)),
        };
        Ok(Piece { name: name.to_owned(), dtype, shape })
    }
}

/// Name of the module whose weight this is.
pub(crate) fn stem(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Weights that share a scale in a matrix of `k` columns. Blocks of 4-bit integers divide the rows, since nothing in
/// the file says how long they are; their lengths are multiples of eight, which a word holds.
pub(super) fn block_len(format: Format, k: usize) -> usize {
    let usual = format.spec().block_len(k);
    match format {
        Format::Int4 => {
            (1..=usual / 8).rev().map(|words| 8 * words).find(|len| k.is_multiple_of(*len)).unwrap_or(k)
        }
        _ => usual,
    }
}

/// The tensors of a matrix, in the order of [`contents`].
pub(super) fn pieces(
    stem: &str,
    format: Format,
    (n, k): (usize, usize),
    block_len: usize,
) -> Result<Vec<Piece>> {
    let piece = |name: &str, dtype, shape| Piece { name: format!("{stem}.{name}"), dtype, shape };
    let blocks = k.div_ceil(block_len.max(1));
    let row_scale = || piece("weight_scale", Dtype::F32, vec![n, 1]);
    let nibbles = || piece("weight_packed", Dtype::U8, vec![n, k / 2]);
    let pieces = match format {
        Format::Int8 => vec![piece("weight", Dtype::I8, vec![n, k]), row_scale()],
        Format::Fp8E4m3 => vec![piece("weight", Dtype::F8_E4M3, vec![n, k]), row_scale()],
        Format::Fp8E5m2 => vec![piece("weight", Dtype::F8_E5M2, vec![n, k]), row_scale()],
        Format::Int4 => vec![
            piece("weight_packed", Dtype::I32, vec![n, k.div_ceil(8)]),
            piece("weight_scale", Dtype::F16, vec![n, blocks]),
            piece("weight_shape", Dtype::I64, vec![2]),
        ],
        Format::Mxfp4 if k.is_multiple_of(2) => {
            vec![nibbles(), piece("weight_scale", Dtype::U8, vec![n, blocks])]
        }
        Format::Nvfp4 if k.is_multiple_of(2) => vec![
            nibbles(),
            piece("weight_scale", Dtype::F8_E4M3, vec![n, blocks]),
            piece("weight_global_scale", Dtype::F32, vec![1]),
        ],
        _ => return Err(unwritable(stem, format)),
    };
    Ok(pieces)
}

/// A matrix of zeros, to be encoded row by row.
pub(super) fn zeroed(
    format: Format,
    (n, k): (usize, usize),
    block_len: usize,
    amax: f32,
) -> Result<EncodedMatrix> {
    let mut encoded = EncodedMatrix::zeroed(format, n, k, amax);
    if format == Format::Nvfp4 {
        // The file has the reciprocal; what comes back from it is the scale that codes are made for.
        encoded.tensor_scale = 1.0 / (1.0 / encoded.tensor_scale);
    }
    if block_len != encoded.block_len {
        let blocks = k.div_ceil(block_len.max(1));
        let data = vec![0; n * (blocks * block_len * format.spec().code_bits).div_ceil(8)];
        let scales = vec![0; n * blocks * format.spec().scale.size_bytes()];
        encoded = EncodedMatrix::from_parts(format, (n, k), block_len, data, scales, 1.0)
            .map_err(EngineError::from)?;
    }
    Ok(encoded)
}

/// The bytes of each of [`pieces`].
pub(super) fn contents(encoded: &EncodedMatrix) -> Vec<Vec<u8>> {
    let EncodedMatrix { n, k, .. } = *encoded;
    let scales = encoded.scales.clone();
    let nibbles = || (0..n).flat_map(|row| &encoded.row_codes(row)[..k / 2]).copied().collect();
    match encoded.format {
        Format::Int4 => {
            let mut words = Vec::with_capacity(n * k.div_ceil(8) * 4);
            for row in 0..n {
                let start = words.len();
                words.extend(&encoded.row_codes(row)[..k.div_ceil(2)]);
                for byte in &mut words[start..] {
                    *byte ^= 0x88;
                }
                if !k.is_multiple_of(2)
                    && let Some(last) = words.last_mut()
                {
                    *last &= 15;
                }
                words.resize(start + k.div_ceil(8) * 4, 0);
            }
            let shape = [n as u64, k as u64].iter().flat_map(|size| size.to_le_bytes()).collect();
            vec![words, scales, shape]
        }
        Format::Mxfp4 => vec![nibbles(), scales],
        Format::Nvfp4 => vec![nibbles(), scales, (1.0 / encoded.tensor_scale).to_le_bytes().to_vec()],
        _ => vec![encoded.data.clone(), scales],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_integers_divide_the_row() {
        let lengths = [768, 312, 1200, 896, 26, 50257, 4].map(|k| block_len(Format::Int4, k));
        assert_eq!(lengths, [128, 104, 120, 128, 26, 50257, 4]);
        assert_eq!(block_len(Format::Mxfp4, 312), 32);
    }

    #[test]
    fn the_reciprocal_of_a_stored_scale_is_the_scale() {
        // Not true of every float, but of every reciprocal: else codes and scale would not fit after loading.
        for i in 1..200_000u32 {
            let amax = i as f32 * 0.000_37;
            let scale = zeroed(Format::Nvfp4, (1, 16), 16, amax).unwrap().tensor_scale;
            assert_eq!(1.0 / (1.0 / scale), scale, "{amax}");
        }
    }
}
