//! Figures that set energy against something else: per token, per sample, per score.
//!
//! Every metric carries the uncertainty of its parts: relative errors of a quotient add in quadrature where they are
//! random, and the systematic term of the energy goes through unchanged.
//!
//! * **EOR**, energy over result: score per watt-hour. It grows as a model gets cheaper *or* better, so a cheap bad
//!   model can have a high one: read it beside the score.
//! * **TWEOR**, time-weighted: score per watt-hour and hour, of the whole evaluation.

use serde::{Deserialize, Serialize};

use crate::energy::{Energy, Provenance};

/// Joules of a watt-hour.
pub const JOULES_PER_WATT_HOUR: f64 = 3600.0;
/// Seconds of an hour.
const SECONDS_PER_HOUR: f64 = 3600.0;

/// One named figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Name in tables and files.
    pub name: String,
    /// Unit as printed.
    pub unit: String,
    /// The figure, `None` where the energy behind it is unresolved.
    pub value: Option<f64>,
    /// Half width of the 95 % confidence interval, where there is one.
    pub ci95: Option<f64>,
    /// Systematic term.
    pub systematic: f64,
    /// Trials behind it.
    pub n: usize,
    /// How far to trust it; `None` for figures without energy in them.
    pub provenance: Option<Provenance>,
}

/// A value with its random uncertainty alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The value.
    pub value: f64,
    /// Half width of its 95 % interval.
    pub ci95: Option<f64>,
}

impl Metric {
    /// Joules per token, sample or whatever `count` counts.
    pub fn energy_per(name: &str, unit: &str, energy: &Energy, count: f64) -> Self {
        let share = energy.scaled(1.0 / count);
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: share.energy_j,
            ci95: share.ci95_j,
            systematic: share.systematic_j,
            n: share.n,
            provenance: Some(share.provenance),
        }
    }

    /// `numerator / energy`, in units of `joules_per_unit` joules.
    fn per_energy(name: &str, unit: &str, numerator: Value, energy: &Energy, joules_per_unit: f64) -> Self {
        let energy_j = energy.energy_j.filter(|energy_j| *energy_j > 0.0);
        let value = energy_j.map(|energy_j| numerator.value / (energy_j / joules_per_unit));
        let relative =
            |ci95: Option<f64>, of: f64| if of == 0.0 { Some(0.0) } else { ci95.map(|ci| ci / of.abs()) };
        let random = energy_j.and_then(|energy_j| {
            let numerator = relative(numerator.ci95, numerator.value).unwrap_or(0.0);
            Some(numerator.hypot(relative(energy.ci95_j, energy_j)?))
        });
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
            ci95: value.zip(random).map(|(value, relative)| value.abs() * relative),
            systematic: value
                .zip(energy_j)
                .map_or(0.0, |(value, energy_j)| value.abs() * energy.systematic_j / energy_j),
            n: energy.n,
            provenance: Some(energy.provenance),
        }
    }

    /// Tokens, samples or whatever `count` counts, per joule.
    pub fn count_per_joule(name: &str, unit: &str, count: f64, energy: &Energy) -> Self {
        Metric::per_energy(name, unit, Value { value: count, ci95: None }, energy, 1.0)
    }

    /// Energy over result: score per watt-hour.
    pub fn eor(score: Value, energy: &Energy) -> Self {
        Metric::per_energy("eor", "score/Wh", score, energy, JOULES_PER_WATT_HOUR)
    }

    /// Time-weighted energy over result: score per watt-hour and hour of the whole evaluation.
    pub fn tweor(score: Value, energy: &Energy, duration_s: f64) -> Self {
        let per_hour = SECONDS_PER_HOUR / duration_s;
        let weighted = Value { value: score.value * per_hour, ci95: score.ci95.map(|ci95| ci95 * per_hour) };
        Metric::per_energy("tweor", "score/(Wh h)", weighted, energy, JOULES_PER_WATT_HOUR)
    }

    /// `count` things per second, for a duration with its interval.
    pub fn rate(name: &str, unit: &str, count: f64, duration: Value, n: usize) -> Self {
        // Before the first trial there is no duration.
        let value = (duration.value > 0.0).then(|| count / duration.value);
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
            ci95: value.zip(duration.ci95).map(|(value, ci95)| value * ci95 / duration.value),
            systematic: 0.0,
            n,
            provenance: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(energy_j: Option<f64>, ci95_j: f64, systematic_j: f64) -> Energy {
        let provenance = if energy_j.is_some() { Provenance::Measured } else { Provenance::Unresolved };
        Energy {
            energy_j,
            ci95_j: Some(ci95_j),
            systematic_j,
            provenance,
            n: 5,
            ..Energy::unresolved("fake", "GPU 0", None)
        }
    }

    #[test]
    fn eor_and_tweor_by_hand() {
        // 0.9 for 7200 J = 2 Wh in half an hour: EOR 0.45 / Wh, TWEOR 0.9 / (2 Wh * 0.5 h) = 0.9 / (Wh h).
        let score = Value { value: 0.9, ci95: Some(0.018) };
        let energy = energy(Some(7200.0), 7200.0 * 0.015, 360.0);
        let eor = Metric::eor(score, &energy);
        assert!((eor.value.unwrap() - 0.45).abs() < 1e-12);
        // 2 % of the score and 1.5 % of the energy make 2.5 %; the sensor's 5 % goes through.
        assert!((eor.ci95.unwrap() - 0.45 * 0.025).abs() < 1e-12);
        assert!((eor.systematic - 0.45 * 0.05).abs() < 1e-12);
        let tweor = Metric::tweor(score, &energy, 1800.0);
        assert!((tweor.value.unwrap() - 0.9).abs() < 1e-12);
        assert!((tweor.ci95.unwrap() - 0.9 * 0.025).abs() < 1e-12);
    }

    #[test]
    fn energy_per_token_and_tokens_per_joule_are_reciprocal() {
        let energy = energy(Some(2.0), 0.1, 0.2);
        let per_token = Metric::energy_per("energy_per_token_j", "J/token", &energy, 8.0);
        assert_eq!((per_token.value, per_token.systematic), (Some(0.25), 0.025));
        let tokens = Metric::count_per_joule("tokens_per_joule", "tokens/J", 8.0, &energy);
        assert_eq!(tokens.value, Some(4.0));
        assert!((tokens.ci95.unwrap() / 4.0 - per_token.ci95.unwrap() / 0.25).abs() < 1e-12);
    }

    #[test]
    fn unresolved_energy_gives_no_figure() {
        let metric = Metric::eor(Value { value: 0.9, ci95: None }, &energy(None, 0.0, 0.0));
        assert_eq!(
            (metric.value, metric.ci95, metric.provenance),
            (None, None, Some(Provenance::Unresolved))
        );
    }
}
