//! Rotary settings of a configuration: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (4).

use joulewise_engine::{RopeScaling, RopeSpec};

use crate::config::ModelConfig;
use crate::error::Result;

/// Where a setting comes from in old and new files.
struct Settings<'a> {
    config: &'a ModelConfig,
    /// `rope_parameters` or `rope_scaling`.
    nested: Option<ModelConfig>,
}

impl Settings<'_> {
    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.nested.as_ref().map_or(Ok(None), |nested| nested.optional_f64(key))
    }

    /// A number that its scaling cannot do without; positive.
    fn needed(&self, key: &str) -> Result<f64> {
        let origin = self.nested.as_ref().unwrap_or(self.config);
        match self.number(key)? {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(origin.wrong_value(key, "a positive number", value)),
            None => Err(origin.missing(key)),
        }
    }

    /// The context before stretching. A value beside the settings outranks one among them: that is where models whose
    /// `max_position_embeddings` was raised keep the trained one.
    fn original_max_positions(&self) -> Result<f64> {
        let key = "original_max_position_embeddings";
        if let Some(beside) = self.config.optional_usize(key)? {
            return Ok(beside as f64);
        }
        match self.number(key)? {
            Some(_) => self.needed(key),
            None => Ok(self.config.usize("max_position_embeddings")? as f64),
        }
    }
}

/// How much of each head is rotated.
#[derive(Clone, Copy)]
pub(super) enum Share {
    /// All of it, whatever the file says: the reference reads no share for these families.
    Whole,
    /// `partial_rotary_factor`, or what the family called it before transformers 5.
    Stated {
        /// Key of transformers 4.
        old_name: &'static str,
        /// Share where the file has none.
        default: f64,
    },
}

/// The rotary embedding of heads of `head_dim` elements. `old_theta` is what the family called the base before
/// transformers 5.
pub(super) fn rope(config: &ModelConfig, head_dim: usize, old_theta: &str, share: Share) -> Result<RopeSpec> {
    // Where a file has both, the old name wins, as in the reference; an empty object is none.
    let nested = match config.optional_object("rope_scaling")?.filter(|settings| !settings.is_empty()) {
        Some(settings) => Some(settings),
        None => config.optional_object("rope_parameters")?,
    };
    let by_layer =
        |settings: &ModelConfig| settings.has("full_attention") || settings.has("sliding_attention");
    if nested.as_ref().is_some_and(by_layer) {
        return Err(config.unsupported("rope_parameters", "one per layer type", "all layers share one"));
    }
    let settings = Settings { config, nested };
    let theta = match settings.number("rope_theta")? {
        Some(theta) => theta,
        None => config.optional_f64(old_theta)?.or(config.optional_f64("rope_theta")?).unwrap_or(10_000.0),
    };
    if !(theta > 1.0 && theta.is_finite()) {
        return Err(config.wrong_value("rope_theta", "a number above 1", theta));
    }
    let share = match share {
        Share::Whole => 1.0,
        Share::Stated { old_name, default } => match settings.number("partial_rotary_factor")? {
            Some(share) => share,
            None => config.optional_f64(old_name)?.unwrap_or(default),
        },
    };
    if !(share > 0.0 && share <= 1.0) {
        return Err(config.wrong_value("partial_rotary_factor", "a share above 0, at most 1", share));
    }
    // Truncated as the reference does; a pair of dimensions cannot be rotated by half.
    let rotary = (head_dim as f64 * share) as usize;
    if rotary == 0 || !rotary.is_multiple_of(2) {
        return Err(config.wrong_value("head_dim", "an even number of rotated dimensions", rotary));
    }
    let scaling = scaling(&settings)?;
    if let RopeScaling::Divisors { divisors } = &scaling
        && (divisors.len() != rotary / 2
            || divisors.iter().any(|divisor| divisor.is_nan() || *divisor <= 0.0))
    {
        let expected = format!("{} positive numbers", rotary / 2);
        return Err(config.wrong_value("divisors", &expected, format!("{} numbers", divisors.len())));
    }
    Ok(RopeSpec { theta, rotary, scaling })
}

fn scaling(settings: &Settings<'_>) -> Result<RopeScaling> {
    let Some(nested) = &settings.nested else { return Ok(RopeScaling::Default) };
    let kind = match nested.optional_str("rope_type")? {
        Some(kind) => kind,
        None => nested.optional_str("type")?.unwrap_or("default"),
    };
    match kind {
        // "dynamic" changes the frequencies of inputs longer than max_position_embeddings, where this engine stops.
        "default" | "dynamic" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: settings.needed("factor")? }),
        // GGUF's `rope_freqs.weight`; no file of transformers has it.
        "divisors" => {
            let divisors = nested.optional_numbers("divisors")?.ok_or_else(|| nested.missing("divisors"))?;
            Ok(RopeScaling::Divisors { divisors })
        }
        "llama3" => {
            let low_freq_factor = settings.needed("low_freq_factor")?;
            let high_freq_factor = settings.needed("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than low_freq_factor = {low_freq_factor}");
                return Err(nested.wrong_value("high_freq_factor", &expected, high_freq_factor));
            }
            Ok(RopeScaling::Llama3 {
                factor: settings.needed("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_positions: settings.original_max_positions()?,
            })
        }
        "yarn" => {
            let original_max_positions = settings.original_max_positions()?;
            let factor = match settings.number("factor")? {
                Some(_) => settings.needed("factor")?,
                None => settings.config.usize("max_position_embeddings")? as f64 / original_max_positions,
            };
            // A zero means "unset" to the reference, as does an absent key.
            let set = |key: &str| -> Result<Option<f64>> {
                match settings.number(key)? {
                    None | Some(0.0) => Ok(None),
                    Some(_) => settings.needed(key).map(Some),
                }
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_max_positions,
                beta_fast: set("beta_fast")?.unwrap_or(32.0),
                beta_slow: set("beta_slow")?.unwrap_or(1.0),
                attention_factor: settings.number("attention_factor")?,
                mscale: set("mscale")?.zip(set("mscale_all_dim")?),
                truncate: nested.bool_or("truncate", true)?,
            })
        }
        other => {
            Err(nested.unsupported("rope_type", other, "known are default, linear, llama3, yarn and dynamic"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<RopeSpec> {
        let config = ModelConfig::from_json("config.json", json.as_bytes()).unwrap();
        rope(&config, 64, "rotary_emb_base", Share::Stated { old_name: "rotary_pct", default: 1.0 })
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let new = parse(r#"{"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}}"#);
        let old = parse(r#"{"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}"#);
        assert_eq!(new.unwrap(), old.unwrap());
        let new =
            parse(r#"{"rope_parameters": {"rope_theta": 10000, "partial_rotary_factor": 0.25}}"#).unwrap();
        assert_eq!(new, parse(r#"{"rotary_emb_base": 10000, "rotary_pct": 0.25}"#).unwrap());
        assert_eq!(new.rotary, 16);
    }

    #[test]
    fn unusable_settings_are_refused() {
        for bad in [
            r#"{"rope_scaling": {"type": "longrope", "factor": 2.0}}"#,
            r#"{"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}}"#,
            r#"{"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}"#,
            r#"{"rope_scaling": {"type": "linear"}}"#,
            r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#,
            r#"{"rope_scaling": {"type": "yarn", "factor": 2.0}}"#,
            r#"{"rope_theta": -1}"#,
            r#"{"rotary_pct": 2.0}"#,
            r#"{"rope_scaling": 3}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
