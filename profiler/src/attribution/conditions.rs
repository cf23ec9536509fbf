//! What trials differ in besides what they ran: the clock and the temperature of the device.
//!
//! A GPU chooses its clock by itself and does not always choose alike: the same trial of a decode step ran at 1,878 and at
//! 1,973 MHz, 5 % of its joules and 3 % of its time apart. A warmer chip takes more: 3 to 5 % of the joules for 10 K
//! (`benches/record/nvidia-h100/clocks.txt`). Both are measured, so the regression can tell them from what modules cost, and states costs for the
//! clock and the temperature of the whole program.

use super::{Resolved, Trials};
use crate::conditions::AT_POWER_CAP;
use crate::experiment::{Target, Trial};
use crate::statistics::Summary;

/// A condition that trials differ in.
struct Condition {
    /// What a difference of [`Condition::said`] is called.
    name: &'static str,
    /// The difference that effects are told for.
    said: f64,
    /// Whether a power cap sets it. Then it follows from what is run and is part of what that costs: a class would be
    /// blamed for a clock that it has brought about itself.
    is_set_by_power_cap: bool,
    of: fn(&Trial) -> Option<f64>,
    /// How far from the reference a value is, so that an effect of 1 is as large as is to be expected: energy and time
    /// change with the clock about as the clock does, and by 5 % for 10 K at most.
    distance: fn(value: f64, reference: f64) -> f64,
}

const CONDITIONS: [Condition; 2] = [
    Condition {
        name: "a clock 1 % higher",
        said: 0.01,
        is_set_by_power_cap: true,
        of: |trial| trial.clock_hz,
        distance: |clock_hz, reference_hz| clock_hz / reference_hz - 1.0,
    },
    Condition {
        name: "10 K more",
        said: 0.05,
        is_set_by_power_cap: false,
        of: |trial| trial.temperature_c,
        distance: |temperature_c, reference_c| 0.005 * (temperature_c - reference_c),
    },
];

/// The conditions that are known of all trials, with what they were for the whole program.
pub(super) struct Conditions(Vec<(&'static Condition, f64)>);

impl Conditions {
    pub(super) fn of(trials: &Trials<'_>) -> Conditions {
        let all =
            || trials.of(Target::Whole).chain(trials.of(Target::Repeated)).chain(trials.of(Target::Mixture));
        let is_capped = all().any(|resolved| resolved.trial.flags.iter().any(|flag| flag == AT_POWER_CAP));
        let known = |condition: &'static Condition| {
            let value = |resolved: &Resolved<'_>| (condition.of)(resolved.trial);
            let reference: Option<Vec<f64>> = trials.of(Target::Whole).map(value).collect();
            let reference = reference.filter(|values| !values.is_empty())?;
            let is_told = all().all(|resolved| value(resolved).is_some());
            let is_free = !(condition.is_set_by_power_cap && is_capped);
            (is_told && is_free).then(|| (condition, Summary::of(&reference).mean))
        };
        Conditions(CONDITIONS.iter().filter_map(known).collect())
    }

    /// How far a trial was from the whole program.
    pub(super) fn distances(&self, trial: &Trial) -> Vec<f64> {
        let distance = |(condition, reference): &(&Condition, f64)| {
            (condition.of)(trial).map_or(0.0, |value| (condition.distance)(value, *reference))
        };
        self.0.iter().map(distance).collect()
    }

    /// Names of differences, and how large these are.
    pub(super) fn said(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(condition, _)| (condition.name, condition.said))
    }
}
