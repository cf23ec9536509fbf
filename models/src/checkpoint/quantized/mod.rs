//! Quantized matrices in safetensors files: several tensors that together are one weight.
//!
//! Which layout a module has is seen from the names, number formats and shapes of its tensors, never from what
//! `config.json` claims: the same names mean the same thing in every file, while the texts differ from tool to tool.
//! One exception has no trace in the tensors, see [`Zeros::MinusOne`].

mod codes;
mod compressed_tensors;
mod gptq;
mod matrix;

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::bytes::Slice;
use super::tensor::{Plain, Tensor};
use crate::error::{ModelError, Result};
use matrix::QuantizedMatrix;

/// How GPTQ files store the code that means zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// One less than it is, as the original does.
    #[default]
    MinusOne,
    /// As it is: `"checkpoint_format": "gptq_v2"` in `quantization_config`.
    AsIs,
}

/// A tensor of a file.
pub(super) struct Part {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Slice,
}

/// All tensors of a checkpoint by name.
pub(super) type Parts = BTreeMap<String, Part>;

/// One module's tensors.
struct Module<'a> {
    parts: &'a Parts,
    /// Name in front of the dot.
    stem: &'a str,
    gptq_zeros: Zeros,
}

impl<'a> Module<'a> {
    fn part(&self, name: &str) -> Option<&'a Part> {
        self.parts.get(&format!("{}.{name}", self.stem))
    }

    /// A part without which the others cannot be read.
    fn needed(&self, name: &str) -> Result<&'a Part, String> {
        self.part(name).ok_or_else(|| format!("there is no `{}.{name}`", self.stem))
    }
}

/// A row of the table: a tensor that holds codes, and what makes a matrix of it and its neighbours. `None` where the
/// tensor is not quantized after all.
struct Layout {
    /// Name of the tensor of codes, behind the module's.
    codes: &'static str,
    read: fn(&Module<'_>, codes: &Part) -> Result<Option<QuantizedMatrix>, String>,
    /// The other tensors that are used up.
    companions: &'static [&'static str],
}

const LAYOUTS: &[Layout] = &[
    Layout {
        codes: "weight",
        read: compressed_tensors::bytes,
        companions: &["weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point"],
    },
    Layout {
        codes: "weight_packed",
        read: compressed_tensors::packed,
        companions: &[
            "weight_scale",
            "weight_global_scale",
            "weight_zero_point",
            "weight_g_idx",
            "weight_shape",
        ],
    },
    Layout { codes: "qweight", read: gptq::read, companions: &["scales", "qzeros", "g_idx"] },
];

/// Joins the parts of quantized matrices; what is left stands for itself.
///
/// # Errors
/// When a quantized matrix lacks a part, or its parts do not fit.
pub(super) fn assemble(origin: &str, parts: Parts, gptq_zeros: Zeros) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::with_capacity(parts.len());
    let mut used = BTreeSet::new();
    for (name, codes) in &parts {
        let Some((stem, ending)) = name.rsplit_once('.') else { continue };
        let Some(layout) = LAYOUTS.iter().find(|layout| layout.codes == ending) else { continue };
        let module = Module { parts: &parts, stem, gptq_zeros };
        let matrix = (layout.read)(&module, codes).map_err(|problem| ModelError::TensorValues {
            name: name.clone(),
            problem: format!("{problem} ({origin})"),
        })?;
        if let Some(matrix) = matrix {
            used.insert(name.clone());
            used.extend(layout.companions.iter().map(|companion| format!("{stem}.{companion}")));
            let shape = vec![matrix.n, matrix.k];
            tensors.push((format!("{stem}.weight"), Tensor { shape, storage: Box::new(matrix) }));
        }
    }
    let left = parts.into_iter().filter(|(name, _)| !used.contains(name));
    tensors.extend(left.map(|(name, Part { dtype, shape, bytes })| {
        (name, Tensor { shape, storage: Box::new(Plain { dtype, bytes }) })
    }));
    Ok(tensors)
}
