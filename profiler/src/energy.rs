//! What a figure in joules carries with it: sensor, scope, provenance and two kinds of uncertainty.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sensor::Scope;
use crate::statistics::Summary;

/// Updates of a sensor within a window from which on a reading counts as fully measured.
pub const UPDATES_MEASURED: u64 = 10;

/// Where a figure comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// A physical sensor, updated at least [`UPDATES_MEASURED`] times within the window.
    Measured,
    /// A physical sensor, updated fewer times.
    MeasuredLowResolution,
    /// Computed from a measurement by a formula: a fitted correction, a share of a larger window.
    Derived,
    /// A model without any sensor.
    Estimated,
    /// The sensor did not see the window; there is an upper bound at best.
    Unresolved,
}

impl Provenance {
    /// Every provenance, best first.
    pub const ALL: &'static [Provenance] = &[
        Provenance::Measured,
        Provenance::MeasuredLowResolution,
        Provenance::Derived,
        Provenance::Estimated,
        Provenance::Unresolved,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Provenance::Measured => "measured",
            Provenance::MeasuredLowResolution => "measured-low-resolution",
            Provenance::Derived => "derived",
            Provenance::Estimated => "estimated",
            Provenance::Unresolved => "unresolved",
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The energy of one window by one sensor.
#[derive(Clone, Debug)]
pub struct EnergyReading {
    /// Name of the sensor.
    pub sensor: String,
    /// The part of the machine it covers.
    pub scope: Scope,
    /// Whether it may be added to readings of other scopes.
    pub counts_in_total: bool,
    /// How far to trust it.
    pub provenance: Provenance,
    /// The energy, `None` when unresolved.
    pub energy_j: Option<f64>,
    /// What it cannot exceed, where that is known of an unresolved window.
    pub upper_bound_j: Option<f64>,
    /// Half width of the 95 % interval from the sensor's own sampling: moments of its updates, spread of its samples.
    pub sampling_j: f64,
    /// Systematic term: does not shrink with repetition.
    pub systematic_j: f64,
    /// Length of the window.
    pub duration_s: f64,
    /// Updates of the sensor within the window.
    pub updates: u64,
    /// Why it is unresolved.
    pub reason: Option<String>,
    /// Whether it is unresolved for a reason that has nothing to do with how much it was.
    pub is_lost: bool,
}

impl EnergyReading {
    /// Mean power over the window.
    pub fn power_w(&self) -> Option<f64> {
        self.energy_j.map(|energy_j| energy_j / self.duration_s)
    }
}

/// A figure in joules: of one window, a mean over trials, a share, a sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// The energy, `None` when unresolved.
    pub energy_j: Option<f64>,
    /// What it cannot exceed, where that is known of an unresolved figure.
    pub upper_bound_j: Option<f64>,
    /// Half width of the 95 % confidence interval over `n` trials, `None` for a single one.
    pub ci95_j: Option<f64>,
    /// Number of independent trials behind it.
    pub n: usize,
    /// Systematic term, kept apart from the random one.
    pub systematic_j: f64,
    /// How far to trust it.
    pub provenance: Provenance,
    /// Names of the sensors behind it, joined with ` + `.
    pub sensor: String,
    /// What these cover, joined likewise.
    pub scope: String,
}

impl Energy {
    /// A figure that no sensor resolved.
    pub fn unresolved(sensor: &str, scope: &str, upper_bound_j: Option<f64>) -> Self {
        Energy {
            energy_j: None,
            upper_bound_j,
            ci95_j: None,
            n: 0,
            systematic_j: 0.0,
            provenance: Provenance::Unresolved,
            sensor: sensor.to_owned(),
            scope: scope.to_owned(),
        }
    }

    /// The sum of readings of one window by sensors of disjoint scopes.
    ///
    /// Random terms are independent and add in quadrature; systematic ones may share a cause and add linearly.
    /// One unresolved part makes the sum unresolved.
    pub fn of_window(readings: &[&EnergyReading]) -> Self {
        let join = |part: fn(&EnergyReading) -> String| {
            readings.iter().map(|reading| part(reading)).collect::<Vec<_>>().join(" + ")
        };
        let (sensor, scope) =
            (join(|reading| reading.sensor.clone()), join(|reading| reading.scope.to_string()));
        let energy_j: Option<f64> = readings.iter().map(|reading| reading.energy_j).sum();
        let Some(energy_j) = energy_j.filter(|_| !readings.is_empty()) else {
            let bound_j = readings.iter().map(|reading| reading.energy_j.or(reading.upper_bound_j)).sum();
            return Energy::unresolved(&sensor, &scope, if readings.is_empty() { None } else { bound_j });
        };
        let sampling_j = readings.iter().map(|reading| reading.sampling_j.powi(2)).sum::<f64>().sqrt();
        Energy {
            energy_j: Some(energy_j),
            upper_bound_j: None,
            ci95_j: Some(sampling_j),
            n: 1,
            systematic_j: readings.iter().map(|reading| reading.systematic_j).sum(),
            provenance: worst(readings.iter().map(|reading| reading.provenance)),
            sensor,
            scope,
        }
    }

    /// The mean of repeated trials: its interval comes from their spread, and never falls below what the sensor's
    /// own sampling leaves open. Trials that are unresolved make the mean unresolved: leaving them out would select
    /// the trials that happened to see more.
    pub fn mean(trials: &[Energy]) -> Self {
        let Some(first) = trials.first() else { return Energy::unresolved("", "", None) };
        let values: Option<Vec<f64>> = trials.iter().map(|trial| trial.energy_j).collect();
        let Some(values) = values else {
            let bound_j = trials
                .iter()
                .map(|trial| trial.energy_j.or(trial.upper_bound_j))
                .try_fold(0.0, |most: f64, bound| bound.map(|bound| most.max(bound)));
            return Energy { n: trials.len(), ..Energy::unresolved(&first.sensor, &first.scope, bound_j) };
        };
        let summary = Summary::of(&values);
        let n = trials.len() as f64;
        let sampling_j =
            trials.iter().filter_map(|trial| trial.ci95_j).map(|ci| ci * ci).sum::<f64>().sqrt() / n;
        Energy {
            energy_j: Some(summary.mean),
            upper_bound_j: None,
            ci95_j: summary.ci95.map(|ci| ci.max(sampling_j)).or(Some(sampling_j)),
            n: trials.len(),
            systematic_j: trials.iter().map(|trial| trial.systematic_j).sum::<f64>() / n,
            provenance: worst(trials.iter().map(|trial| trial.provenance)),
            ..first.clone()
        }
    }

    /// This figure times a known factor, such as one over the number of iterations.
    pub fn scaled(&self, factor: f64) -> Self {
        Energy {
            energy_j: self.energy_j.map(|energy_j| energy_j * factor),
            upper_bound_j: self.upper_bound_j.map(|bound_j| bound_j * factor),
            ci95_j: self.ci95_j.map(|ci95_j| ci95_j * factor.abs()),
            systematic_j: self.systematic_j * factor.abs(),
            ..self.clone()
        }
    }

    /// The sum of figures of one sensor (modules, kinds, layers). Random terms of separate trials add in
    /// quadrature; the systematic term is the sensor's gain, common to all of them, and adds linearly.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Energy>) -> Self {
        let parts: Vec<&Energy> = parts.into_iter().collect();
        let Some(first) = parts.first() else { return Energy::unresolved("", "", None) };
        let energy_j: Option<f64> = parts.iter().map(|part| part.energy_j).sum();
        let Some(energy_j) = energy_j else {
            let bound_j = parts.iter().map(|part| part.energy_j.or(part.upper_bound_j)).sum();
            return Energy::unresolved(&first.sensor, &first.scope, bound_j);
        };
        let ci95_j: Option<f64> = parts.iter().map(|part| part.ci95_j.map(|ci95_j| ci95_j * ci95_j)).sum();
        Energy {
            energy_j: Some(energy_j),
            upper_bound_j: None,
            ci95_j: ci95_j.map(f64::sqrt),
            n: parts.iter().map(|part| part.n).min().unwrap_or(0),
            systematic_j: parts.iter().map(|part| part.systematic_j).sum(),
            provenance: worst(parts.iter().map(|part| part.provenance)),
            sensor: first.sensor.clone(),
            scope: first.scope.clone(),
        }
    }

    /// What is left of this figure when another of the same sensor is taken away. The random terms are independent;
    /// the gain is common, so the systematic term is that of the difference.
    pub fn minus(&self, other: &Energy) -> Self {
        let energy_j = self.energy_j.zip(other.energy_j).map(|(left, right)| left - right);
        let Some(energy_j) = energy_j else { return Energy::unresolved(&self.sensor, &self.scope, None) };
        Energy {
            energy_j: Some(energy_j),
            upper_bound_j: None,
            ci95_j: self.ci95_j.zip(other.ci95_j).map(|(left, right)| left.hypot(right)),
            n: self.n.min(other.n),
            systematic_j: (self.systematic_j - other.systematic_j).abs(),
            provenance: self.provenance.max(other.provenance),
            sensor: self.sensor.clone(),
            scope: self.scope.clone(),
        }
    }
}

/// The least trustworthy of several.
fn worst(provenances: impl Iterator<Item = Provenance>) -> Provenance {
    provenances.max().unwrap_or(Provenance::Unresolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(energy_j: Option<f64>, sampling_j: f64, systematic_j: f64) -> EnergyReading {
        EnergyReading {
            sensor: "fake".into(),
            scope: Scope::Platform,
            counts_in_total: true,
            provenance: if energy_j.is_some() { Provenance::Measured } else { Provenance::Unresolved },
            energy_j,
            upper_bound_j: None,
            sampling_j,
            systematic_j,
            duration_s: 2.0,
            updates: 20,
            reason: None,
            is_lost: false,
        }
    }

    #[test]
    fn scopes_add_random_terms_in_quadrature_and_systematic_ones_linearly() {
        let (package, dram) = (reading(Some(10.0), 0.3, 0.5), reading(Some(2.0), 0.4, 0.1));
        let sum = Energy::of_window(&[&package, &dram]);
        assert_eq!(sum.energy_j, Some(12.0));
        assert!((sum.ci95_j.unwrap() - 0.5).abs() < 1e-12);
        assert!((sum.systematic_j - 0.6).abs() < 1e-12);
        assert_eq!(sum.sensor, "fake + fake");
    }

    #[test]
    fn one_unresolved_part_makes_a_sum_unresolved_and_never_zero() {
        let (known, unknown) = (reading(Some(10.0), 0.0, 0.0), reading(None, 0.0, 0.0));
        let sum = Energy::of_window(&[&known, &unknown]);
        assert_eq!((sum.energy_j, sum.provenance), (None, Provenance::Unresolved));
        assert_eq!(Energy::of_window(&[]).energy_j, None);
        let mean = Energy::mean(&[Energy::of_window(&[&known]), sum]);
        assert_eq!((mean.energy_j, mean.n), (None, 2));
    }

    #[test]
    fn a_mean_carries_the_spread_of_its_trials() {
        let trials: Vec<_> =
            [9.0, 10.0, 11.0].map(|energy_j| Energy::of_window(&[&reading(Some(energy_j), 0.0, 0.5)])).into();
        let mean = Energy::mean(&trials);
        assert_eq!(mean.energy_j, Some(10.0));
        // sd = 1, n = 3, t(0.975, 2) = 4.30265: half width 4.30265 / sqrt(3).
        assert!((mean.ci95_j.unwrap() - 2.484_138).abs() < 1e-5);
        assert_eq!(mean.systematic_j, 0.5);
    }

    #[test]
    fn the_common_gain_cancels_in_a_difference() {
        let of = |energy_j, systematic_j| Energy::of_window(&[&reading(Some(energy_j), 0.0, systematic_j)]);
        let rest = of(10.0, 0.5).minus(&of(8.0, 0.4));
        assert_eq!(rest.energy_j, Some(2.0));
        assert!((rest.systematic_j - 0.1).abs() < 1e-12);
    }
}
