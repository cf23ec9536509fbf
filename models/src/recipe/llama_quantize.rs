//! Arguments of llama.cpp's `llama-quantize`: a type for each tensor by its name in the GGUF file, which is a regular
//! expression there (`tools/quantize/quantize.cpp`, `--tensor-type`). The expressions are only looked at where the type of
//! the whole file is a quantized one (`src/llama-quant.cpp`, `llama_tensor_get_type`), so it is `q8_0`, and matrices that
//! keep 16 or 32 bits are named, too.

use std::fmt::Write;

use joulewise_engine::{ActivationMode, Format, PrecisionPlan};

use super::{Recipe, items, note};
use crate::error::{ModelError, Result};
use crate::gguf::stored_name;
use crate::load::LoadedModel;

/// The type of a format, and whether it is the format itself or the nearest there is. Blocks of `k` columns that are
/// not full fall back to 16 bits there, as the program itself does.
fn type_of(format: Format, k: usize) -> (&'static str, bool) {
    let (name, block, is_same) = match format {
        Format::F32 => ("f32", 1, true),
        Format::F16 => ("f16", 1, true),
        Format::Bf16 => ("bf16", 1, true),
        // Scales per 32 columns instead of one per row: finer.
        Format::Int8 => ("q8_0", 32, true),
        Format::Int4 => ("q4_0", 32, true),
        Format::Mxfp4 => ("mxfp4", 32, true),
        Format::Nvfp4 => ("nvfp4", 64, true),
        Format::Nf4 => ("iq4_nl", 32, false),
        _ => ("q8_0", 32, false),
    };
    if k.is_multiple_of(block) { (name, is_same) } else { ("f16", false) }
}

pub(super) fn write(model: &LoadedModel, plan: &PrecisionPlan) -> Result<Recipe> {
    let family = model.config.model_type()?;
    let (mut text, mut replaced) = (String::from("--allow-requantize"), Vec::new());
    let (mut unnamed, mut rounded) = (Vec::new(), Vec::new());
    for item in items(model, plan) {
        let Some(name) = stored_name(family, item.name) else {
            unnamed.push(item.name);
            continue;
        };
        let (kind, is_same) = type_of(item.format, item.k);
        if !is_same {
            replaced.push((item.format, kind, item.name));
        }
        if item.activation != ActivationMode::Float && !item.format.is_float() {
            rounded.push(item.name);
        }
        let _ = match name.as_str() {
            "token_embd" => write!(text, " \\\n  --token-embedding-type {kind}"),
            "output" => write!(text, " \\\n  --output-tensor-type {kind}"),
            // The expression is searched for anywhere in a name: dots and ends are spelled out.
            name => write!(text, " \\\n  --tensor-type '^{}\\.weight$={kind}'", name.replace('.', "\\.")),
        };
    }
    if text.lines().count() < 2 {
        return Err(ModelError::NoRecipe {
            target: "llama-quantize",
            family: family.unwrap_or("?").to_owned(),
        });
    }
    text.push_str(" \\\n  MODEL-F16.gguf OUT.gguf q8_0\n");
    let mut notes = Vec::new();
    notes.extend(note(&unnamed, "no tensor of this name in a GGUF file; left out"));
    notes.extend(note(&rounded, "llama.cpp rounds activations by its own rule"));
    let mut reasons: Vec<(Format, &str)> =
        replaced.iter().map(|(format, kind, _)| (*format, *kind)).collect();
    reasons.sort_by_key(|(format, kind)| (format.name(), *kind));
    reasons.dedup();
    for (format, kind) in reasons {
        let of = replaced.iter().filter(|(other, with, _)| *other == format && *with == kind);
        let names: Vec<&str> = of.map(|(_, _, name)| *name).collect();
        notes.extend(note(&names, &format!("{kind} stands in for {}", format.name())));
    }
    Ok(Recipe { text, notes })
}
