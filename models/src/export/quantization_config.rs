//! The `quantization_config` of `config.json`, as the compressed-tensors library describes what it writes.

use joulewise_engine::{ActivationMode, Format};
use serde_json::{Map, Value, json};

/// A module and its scheme.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// `None`: it keeps a float format, where others of its kind do not.
    scheme: Option<Scheme>,
    module: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheme {
    format: Format,
    /// Weights that share a scale, where that is less than a row.
    group_size: Option<usize>,
    activation: ActivationMode,
}

impl Group {
    pub(super) fn new(
        format: Format,
        group_size: Option<usize>,
        activation: ActivationMode,
        module: &str,
    ) -> Self {
        let scheme = Some(Scheme { format, group_size, activation });
        Group { scheme, module: module.to_owned() }
    }

    pub(super) fn ignored(module: &str) -> Self {
        Group { scheme: None, module: module.to_owned() }
    }
}

impl Scheme {
    /// What the library calls the layout.
    fn layout(self) -> &'static str {
        match self.format {
            Format::Int8 => "int-quantized",
            Format::Int4 => "pack-quantized",
            Format::Mxfp4 => "mxfp4-pack-quantized",
            Format::Nvfp4 => "nvfp4-pack-quantized",
            _ => "float-quantized",
        }
    }

    fn weights(self) -> Value {
        let (bits, kind, strategy, group_size) = match self.format {
            Format::Int8 => (8, "int", "channel", None),
            Format::Int4 if self.group_size.is_none() => (4, "int", "channel", None),
            Format::Int4 => (4, "int", "group", self.group_size),
            Format::Mxfp4 => (4, "float", "group", Some(32)),
            Format::Nvfp4 => (4, "float", "tensor_group", Some(16)),
            _ => (8, "float", "channel", None),
        };
        let mut weights = json!({
            "num_bits": bits, "type": kind, "strategy": strategy, "group_size": group_size,
            "symmetric": true, "dynamic": false,
        });
        match self.format {
            Format::Mxfp4 => weights["scale_dtype"] = json!("torch.uint8"),
            Format::Nvfp4 => weights["scale_dtype"] = json!("torch.float8_e4m3fn"),
            _ => {}
        }
        weights
    }

    fn input_activations(self) -> Value {
        let kind = if self.format == Format::Int8 { "int" } else { "float" };
        match self.activation {
            ActivationMode::Dynamic => {
                json!({"num_bits": 8, "type": kind, "strategy": "token", "symmetric": true, "dynamic": true})
            }
            // Static scales come from a calibration, which is not part of the weights.
            ActivationMode::Float | ActivationMode::Static => Value::Null,
        }
    }
}

/// The description, `None` where nothing is quantized.
pub(super) fn describe(groups: &[Group]) -> Option<Value> {
    let mut schemes: Vec<(Scheme, Vec<&str>)> = Vec::new();
    for Group { scheme, module } in groups {
        let Some(scheme) = scheme else { continue };
        match schemes.iter_mut().find(|(known, _)| known == scheme) {
            Some((_, modules)) => modules.push(module),
            None => schemes.push((*scheme, vec![module])),
        }
    }
    let (first, _) = schemes.first()?;
    let is_uniform = schemes.iter().all(|(scheme, _)| scheme.layout() == first.layout());
    let format = if is_uniform { first.layout() } else { "mixed-precision" };
    let config_groups: Map<String, Value> = schemes
        .iter()
        .enumerate()
        .map(|(index, (scheme, modules))| {
            let group = json!({
                "targets": modules, "weights": scheme.weights(),
                "input_activations": scheme.input_activations(), "output_activations": null,
                "format": scheme.layout(),
            });
            (format!("group_{index}"), group)
        })
        .collect();
    let ignored: Vec<&str> =
        groups.iter().filter(|group| group.scheme.is_none()).map(|group| group.module.as_str()).collect();
    Some(json!({
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "format": format,
        "config_groups": config_groups, "ignore": ignored, "kv_cache_scheme": null,
    }))
}
