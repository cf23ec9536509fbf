//! GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023): integers in words of 32 bits, scales and zero points by group
//! and output. The two are told apart by which way the words run.
//!
//! | | `qweight` I32 | `qzeros` I32 | `scales` |
//! |---|---|---|---|
//! | GPTQ | `[k * bits / 32, n]`, along k | `[groups, n * bits / 32]`, minus one | `[groups, n]` |
//! | AWQ | `[k, n / 8]`, eight outputs interleaved | `[groups, n / 8]`, interleaved alike | `[groups, n]` |

use safetensors::Dtype;

use super::codes::{Codes, Line, Within, Words};
use super::compressed_tensors::groups;
use super::matrix::{FLOATS, Grid, QuantizedMatrix, Zero};
use super::{Module, Part, Zeros};

/// A `qweight`.
pub(super) fn read(module: &Module<'_>, part: &Part) -> Result<Option<QuantizedMatrix>, String> {
    let (scales, zeros) = (module.needed("scales")?, module.needed("qzeros")?);
    let (&[lines, stride], &[count, n], &[zero_lines, zero_stride]) =
        (&part.shape[..], &scales.shape[..], &zeros.shape[..])
    else {
        return Err("its parts do not have two sizes each".to_owned());
    };
    if [lines, stride, count, n].contains(&0) || part.dtype != Dtype::I32 || zeros.dtype != Dtype::I32 {
        return Err(format!("it has shape {:?} in {}", part.shape, part.dtype));
    }
    let is_awq = stride != n;
    // Both store as many zero points a word as codes.
    let bits = (2..=8).find(|bits| n.checked_mul(*bits) == zero_stride.checked_mul(32));
    let bits = bits.filter(|bits| [2, 4, 8].contains(bits) && (!is_awq || *bits == 4));
    let bits = bits.ok_or_else(|| {
        format!("{zero_stride} words of zero points for {n} outputs hold neither 2, 4 nor 8 bits each")
    })?;
    let k = if is_awq { lines } else { lines.checked_mul(32 / bits).ok_or("its columns are too long")? };
    if is_awq && stride.checked_mul(8) != Some(n) || zero_lines != count {
        return Err(format!(
            "shapes {:?}, {:?} and {:?} of codes, scales and zero points do not fit",
            part.shape, scales.shape, zeros.shape
        ));
    }
    let order = module.part("g_idx").map(|part| groups(part, k, count)).transpose()?;
    if !k.is_multiple_of(count) && order.is_none() {
        return Err(format!("{count} groups do not divide {k} columns"));
    }
    let tile = k.div_ceil(count);
    // An order that changes nothing is none.
    let order = order.filter(|order| order.iter().enumerate().any(|(i, group)| i / tile != *group as usize));
    let grid = Grid { dtype: scales.dtype, bytes: scales.bytes.clone(), tile: (1, tile), strides: (1, n) };
    let (codes_within, zeros_within) = match is_awq {
        true => (Within::InterleavedOutputs, Within::InterleavedOutputs),
        false => (Within::Inputs, Within::Outputs),
    };
    let offset = i32::from(!is_awq && module.gptq_zeros == Zeros::MinusOne);
    let words = |part: &Part, within, stride| {
        let words = part.bytes.clone();
        Words { words, bits, within, line: Line::Input, stride }
    };
    Ok(Some(QuantizedMatrix {
        layout: if is_awq { "AWQ" } else { "GPTQ" },
        n,
        k,
        codes: Codes::Words(words(part, codes_within, stride)),
        scales: grid.check(FLOATS)?,
        zero: Zero::Packed { words: words(zeros, zeros_within, zero_stride), offset, wraps: true },
        tensor_scale: 1.0,
        groups: order,
    }))
}
