//! `hf_quant_config.json`: one algorithm for all and the modules that it leaves out, or `MIXED_PRECISION` and an
//! algorithm per module (Model Optimizer, `modelopt/torch/export/quant_utils.py`).

use joulewise_engine::{ActivationMode, Format, PrecisionPlan};
use serde_json::{Map, Value, json};

use super::{Item, Recipe, items, note};
use crate::error::Result;
use crate::load::LoadedModel;

/// Algorithms that vLLM reads, too (`vllm/model_executor/layers/quantization/modelopt.py`, `QUANT_ALGOS`).
const READ_BY_VLLM: [&str; 2] = ["FP8_PER_CHANNEL_PER_TOKEN", "W4A16_NVFP4"];
/// Columns that share a scale in Model Optimizer's 4-bit integers.
const INT4_GROUP: usize = 128;

/// The algorithm of a matrix; `None` where there is none for its format.
fn algorithm(item: &Item<'_>) -> Option<Value> {
    use ActivationMode::{Dynamic, Float, Static};
    Some(match (item.format, item.activation) {
        (Format::Int8, Float) => json!({"quant_algo": "W8A16"}),
        (Format::Int8, Static) => json!({"quant_algo": "W8A8_SQ_PER_CHANNEL"}),
        (Format::Int8, Dynamic) => json!({"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}),
        (Format::Fp8E4m3, Dynamic) => json!({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
        (Format::Int4, _) if item.k.is_multiple_of(INT4_GROUP) => json!({
            "quant_algo": "W4A16_AWQ", "group_size": INT4_GROUP, "has_zero_point": false, "pre_quant_scale": true,
        }),
        (Format::Nvfp4, _) if item.k.is_multiple_of(16) => {
            json!({"quant_algo": "W4A16_NVFP4", "group_size": 16})
        }
        _ => return None,
    })
}

pub(super) fn write(model: &LoadedModel, plan: &PrecisionPlan) -> Result<Recipe> {
    let (mut layers, mut excluded, mut without) = (Map::new(), Vec::new(), Vec::new());
    let mut unread: Vec<(String, &str)> = Vec::new();
    for item in items(model, plan) {
        match algorithm(&item) {
            Some(algorithm) => {
                let name = algorithm["quant_algo"].as_str().unwrap_or_default();
                if !READ_BY_VLLM.contains(&name) {
                    unread.push((name.to_owned(), item.name));
                }
                layers.insert(item.name.to_owned(), algorithm);
            }
            None => {
                excluded.push(item.name);
                if !item.format.is_float() {
                    without.push((item.format, item.name));
                }
            }
        }
    }
    let mut quantization = Map::new();
    let first = layers.values().next().cloned();
    match first {
        Some(Value::Object(only)) if layers.values().all(|other| other.as_object() == Some(&only)) => {
            quantization.extend(only);
            quantization.insert("exclude_modules".to_owned(), json!(excluded));
        }
        Some(_) => {
            quantization.insert("quant_algo".to_owned(), json!("MIXED_PRECISION"));
            quantization.insert("quantized_layers".to_owned(), Value::Object(layers));
        }
        None => drop(quantization.insert("quant_algo".to_owned(), Value::Null)),
    }
    quantization.insert("kv_cache_quant_algo".to_owned(), Value::Null);
    let producer = json!({"name": "modelopt", "version": "0.33.0"});
    let text = format!("{:#}\n", json!({"producer": producer, "quantization": quantization}));
    let mut notes = Vec::new();
    for format in Format::ALL {
        let names: Vec<&str> =
            without.iter().filter(|(other, _)| other == format).map(|(_, name)| *name).collect();
        notes.extend(note(&names, &format!("no algorithm for {}; left in 16 bits", format.name())));
    }
    // Sorted, so that those of one algorithm stand together; their order within it is that of the model.
    unread.sort_by(|a, b| a.0.cmp(&b.0));
    for of_algorithm in unread.chunk_by(|a, b| a.0 == b.0) {
        let names: Vec<&str> = of_algorithm.iter().map(|(_, name)| *name).collect();
        notes.extend(note(&names, &format!("TensorRT-LLM reads {}, vLLM does not", of_algorithm[0].0)));
    }
    Ok(Recipe { text, notes })
}
