//! Modules as compressed-tensors, NVIDIA's Model Optimizer and DeepSeek's FP8 files store them: a tensor of codes
//! `[out, in]` and its scales beside it.
//!
//! | codes | scales | layout |
//! |---|---|---|
//! | `weight` I8 | `weight_scale`, perhaps `weight_zero_point` | int-quantized |
//! | `weight` F8 | `weight_scale` | float-quantized, ModelOpt FP8, blocks of 128 x 128, mxfp8 |
//! | `weight` F8 | `weight_scale_inv` | DeepSeek: blocks of 128 x 128; it multiplies, whatever its name says |
//! | `weight` U8 | `weight_scale` F8, `weight_scale_2` | ModelOpt NVFP4; the second scale multiplies |
//! | `weight_packed` I32 | `weight_scale`, `weight_shape`, perhaps `weight_zero_point`, `weight_g_idx` | pack-quantized |
//! | `weight_packed` U8 | `weight_scale` F8, `weight_global_scale` | nvfp4-pack-quantized; the global scale divides |
//! | `weight_packed` U8 | `weight_scale` E8M0 | mxfp4-pack-quantized |

use safetensors::Dtype;

use super::codes::{Codes, Line, Within, Words};
use super::matrix::{FLOATS, Grid, QuantizedMatrix, Zero};
use super::{Module, Part};

/// Rows and columns of the blocks of DeepSeek's FP8.
const FP8_BLOCK: usize = 128;

/// Codes of E8M0 scales: files from before the type had a name have plain bytes.
const E8M0: &[Dtype] = &[Dtype::U8, Dtype::F8_E8M0];

/// Both sizes of a matrix that has elements.
fn sizes(part: &Part) -> Result<(usize, usize), String> {
    match part.shape[..] {
        [n, k] if n > 0 && k > 0 => Ok((n, k)),
        _ => Err(format!("it has shape {:?}, expected two sizes", part.shape)),
    }
}

fn plain(layout: &'static str, (n, k): (usize, usize), codes: Codes, scales: Grid) -> QuantizedMatrix {
    QuantizedMatrix { layout, n, k, codes, scales, zero: Zero::Constant(0), tensor_scale: 1.0, groups: None }
}

/// A `weight` in bytes.
pub(super) fn bytes(module: &Module<'_>, part: &Part) -> Result<Option<QuantizedMatrix>, String> {
    let codes = match part.dtype {
        Dtype::I8 => Codes::I8(part.bytes.clone()),
        Dtype::F8_E4M3 => Codes::E4m3(part.bytes.clone()),
        Dtype::F8_E5M2 => Codes::E5m2(part.bytes.clone()),
        Dtype::U8 if module.part("weight_scale_2").is_some() => {
            return model_optimizer_nvfp4(module, part).map(Some);
        }
        _ => return Ok(None),
    };
    let shape = sizes(part)?;
    let inverse = module.part("weight_scale_inv");
    let scale = match inverse {
        Some(scale) => scale,
        None => module.needed("weight_scale")?,
    };
    if E8M0.contains(&scale.dtype) && part.dtype != Dtype::I8 {
        let scales = Grid::over(scale, shape, (1, 32))?;
        return Ok(Some(plain("mxfp8", shape, codes, scales)));
    }
    let scales = Grid::over(scale, shape, tile(scale, shape, inverse.is_some())?)?.check(FLOATS)?;
    let mut matrix = plain("8-bit codes", shape, codes, scales);
    if let Some(zero) = module.part("weight_zero_point") {
        let zero = Grid::over(zero, shape, matrix.scales.tile)?.check(&[Dtype::I8])?;
        matrix.zero = Zero::Bytes(zero);
    }
    Ok(Some(matrix))
}

/// Rows and columns that share a scale, from the shape of the scales. Tiles of 128 x 128 may hang over the edges; any
/// other kind divides the matrix.
fn tile(scale: &Part, (n, k): (usize, usize), is_inverse: bool) -> Result<(usize, usize), String> {
    match scale.shape[..] {
        [] | [1] | [1, 1] => Ok((n, k)),
        [rows] | [rows, 1] if rows == n && !is_inverse => Ok((1, k)),
        [rows, cols] if rows == n.div_ceil(FP8_BLOCK) && cols == k.div_ceil(FP8_BLOCK) => {
            Ok((FP8_BLOCK, FP8_BLOCK))
        }
        [rows, cols] if rows > 0 && cols > 0 && n.is_multiple_of(rows) && k.is_multiple_of(cols) => {
            Ok((n / rows, k / cols))
        }
        _ => Err(format!("its scales have shape {:?}, which does not divide [{n}, {k}]", scale.shape)),
    }
}

/// Two 4-bit floats a byte, `[n, k / 2]`. Rows of an odd length cannot be told; they do not occur.
fn nibbles(part: &Part) -> Result<((usize, usize), Codes), String> {
    let (n, bytes) = sizes(part)?;
    let k = bytes.checked_mul(2).ok_or("its rows are too long")?;
    Ok(((n, k), Codes::E2m1(part.bytes.clone())))
}

/// The one number of a part.
fn scalar(part: &Part) -> Result<f32, String> {
    let value = match part.dtype {
        Dtype::F32 => part.bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes)),
        _ => None,
    };
    match value {
        Some(value) if part.bytes.len() == 4 && value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("its scale is not one positive f32".to_owned()),
    }
}

fn model_optimizer_nvfp4(module: &Module<'_>, part: &Part) -> Result<QuantizedMatrix, String> {
    let (shape, codes) = nibbles(part)?;
    let scales = Grid::over(module.needed("weight_scale")?, shape, (1, 16))?.check(&[Dtype::F8_E4M3])?;
    let tensor_scale = scalar(module.needed("weight_scale_2")?)?;
    Ok(QuantizedMatrix { tensor_scale, ..plain("nvfp4", shape, codes, scales) })
}

/// A `weight_packed`.
pub(super) fn packed(module: &Module<'_>, part: &Part) -> Result<Option<QuantizedMatrix>, String> {
    let scale = module.needed("weight_scale")?;
    let matrix = match (part.dtype, module.part("weight_global_scale")) {
        (Dtype::I32, _) => packed_integers(module, part, scale)?,
        (Dtype::U8, Some(global)) => {
            let (shape, codes) = nibbles(part)?;
            let scales = Grid::over(scale, shape, (1, 16))?.check(&[Dtype::F8_E4M3])?;
            let tensor_scale = 1.0 / scalar(global)?;
            QuantizedMatrix { tensor_scale, ..plain("nvfp4", shape, codes, scales) }
        }
        (Dtype::U8, None) => {
            let (shape, codes) = nibbles(part)?;
            plain("mxfp4", shape, codes, Grid::over(scale, shape, (1, 32))?.check(E8M0)?)
        }
        (other, _) => return Err(format!("it is stored as {other}, expected I32 or U8")),
    };
    Ok(Some(matrix))
}

fn packed_integers(module: &Module<'_>, part: &Part, scale: &Part) -> Result<QuantizedMatrix, String> {
    let (n, stride) = sizes(part)?;
    let k = columns(module.needed("weight_shape")?, n)?;
    let bits = match stride {
        stride if stride == k.div_ceil(8) => 4,
        stride if stride == k.div_ceil(4) => 8,
        _ => return Err(format!("{stride} words for {k} columns hold neither 4 nor 8 bits each")),
    };
    let half = 1 << (bits - 1);
    let tile = tile(scale, (n, k), false)?;
    let scales = Grid::over(scale, (n, k), tile)?.check(FLOATS)?;
    let groups = module.part("weight_g_idx").map(|part| groups(part, k, k.div_ceil(tile.1))).transpose()?;
    let zero = match module.part("weight_zero_point") {
        None => Zero::Constant(half),
        Some(zero) => {
            let (words, cols) = sizes(zero)?;
            if zero.dtype != Dtype::I32 || words != n.div_ceil(32 / bits) || cols != k.div_ceil(tile.1) {
                return Err(format!("its zero points have shape {:?} in {}", zero.shape, zero.dtype));
            }
            // Both zero and code have `half` added.
            let words = zero.bytes.clone();
            let words = Words { words, bits, within: Within::Outputs, line: Line::Output, stride: cols };
            Zero::Packed { words, offset: 0, wraps: false }
        }
    };
    let words = part.bytes.clone();
    let words = Words { words, bits, within: Within::Inputs, line: Line::Output, stride };
    let matrix = plain("packed integers", (n, k), Codes::Words(words), scales);
    Ok(QuantizedMatrix { zero, groups, ..matrix })
}

/// The number of columns that `weight_shape` gives a matrix of `n` rows.
fn columns(part: &Part, n: usize) -> Result<usize, String> {
    let sizes: Vec<u64> = match part.dtype {
        Dtype::I64 => part.bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
        Dtype::I32 => {
            part.bytes.as_chunks().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect()
        }
        _ => Vec::new(),
    };
    match sizes[..] {
        [rows, k] if rows == n as u64 && (1..1 << 32).contains(&k) => Ok(k as usize),
        _ => Err(format!("`weight_shape` says {sizes:?} for {n} rows")),
    }
}

/// The group of each of `k` columns, each below `count`.
pub(super) fn groups(part: &Part, k: usize, count: usize) -> Result<Vec<u32>, String> {
    let groups: Vec<u32> = part.bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    if part.dtype != Dtype::I32 || groups.len() != k {
        return Err(format!("its column order has {} numbers for {k} columns", groups.len()));
    }
    match groups.iter().find(|group| **group as usize >= count) {
        Some(group) => Err(format!("a column is in group {group} of {count}")),
        None => Ok(groups),
    }
}
