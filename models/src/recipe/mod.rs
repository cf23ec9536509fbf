//! A plan in the words of other programs, so that it is of use to those who run their models elsewhere.
//!
//! A recipe holds no weights: the other program quantizes by itself, to the formats that the recipe names. A target is a
//! row of `TARGETS` and a file.

mod compressed_tensors;
mod llama_quantize;
mod model_opt;

use joulewise_engine::{ActivationMode, Format, PrecisionPlan, WeightShape};

use crate::error::Result;
use crate::export::stem;
use crate::load::LoadedModel;

/// A program that takes plans.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// What the file is usually called.
    pub file_name: &'static str,
    /// What it is for.
    pub description: &'static str,
    write: fn(&LoadedModel, &PrecisionPlan) -> Result<Recipe>,
}

/// Every target.
pub static TARGETS: &[Target] = &[
    Target {
        name: "compressed-tensors",
        file_name: "quantization_config.json",
        description: "`quantization_config` of config.json, as vLLM and llm-compressor read it",
        write: compressed_tensors::write,
    },
    Target {
        name: "modelopt",
        file_name: "hf_quant_config.json",
        description: "hf_quant_config.json of NVIDIA's Model Optimizer, as TensorRT-LLM reads it, and vLLM where it is FP8 and NVFP4",
        write: model_opt::write,
    },
    Target {
        name: "llama-quantize",
        file_name: "llama-quantize.args",
        description: "arguments of llama.cpp's llama-quantize",
        write: llama_quantize::write,
    },
];

/// A plan in a target's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The file.
    pub text: String,
    /// What the target cannot do as the plan has it, and what stands there instead.
    pub notes: Vec<String>,
}

impl Target {
    /// Writes a plan for this target.
    ///
    /// # Errors
    /// When the target has no words for the model, or for a format that nothing near stands in for.
    pub fn recipe(&self, model: &LoadedModel, plan: &PrecisionPlan) -> Result<Recipe> {
        (self.write)(model, plan)
    }
}

/// A matrix of the model and what the plan does with it.
struct Item<'a> {
    /// Name of its module in the checkpoint.
    name: &'a str,
    /// Columns.
    k: usize,
    format: Format,
    activation: ActivationMode,
}

fn items<'a>(model: &'a LoadedModel, plan: &PrecisionPlan) -> Vec<Item<'a>> {
    let formats = plan.weight_formats(&model.graph);
    let matrices = model.graph.weights.iter().zip(formats.iter());
    let item = |(spec, format): (&'a joulewise_engine::WeightSpec, &Format)| {
        let WeightShape::Matrix { k, .. } = spec.shape else { return None };
        let module = model.graph.modules.get(spec.module);
        let activation = plan.precision(module).activation;
        Some(Item { name: stem(&spec.name), k, format: *format, activation })
    };
    matrices.filter_map(item).collect()
}

/// One note for all that share a reason.
fn note(names: &[&str], reason: &str) -> Option<String> {
    let first = names.first()?;
    let others = match names.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!("{first}{others}: {reason}"))
}
