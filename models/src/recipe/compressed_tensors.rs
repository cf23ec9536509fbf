//! The `quantization_config` of `config.json`: groups of modules by scheme, each with its own layout
//! (compressed-tensors, `QuantizationConfig`).

use joulewise_engine::{ActivationMode, PrecisionPlan};
use serde_json::json;

use super::{Recipe, items, note};
use crate::error::Result;
use crate::export::quantization_config;
use crate::load::LoadedModel;

pub(super) fn write(model: &LoadedModel, plan: &PrecisionPlan) -> Result<Recipe> {
    let config = quantization_config(model, plan)?;
    let text = format!("{:#}\n", json!({ "quantization_config": config }));
    let fixed: Vec<&str> = items(model, plan)
        .iter()
        .filter(|item| item.activation == ActivationMode::Static && !item.format.is_float())
        .map(|item| item.name)
        .collect();
    let reason = "static input scales come from the other program's own calibration; weights only here";
    Ok(Recipe { text, notes: note(&fixed, reason).into_iter().collect() })
}
