//! What trials differ in besides what they ran: the clock and the temperature of the device.
//!
//! A GPU chooses its clock by itself and does not always choose alike: the same trial of a decode step ran at 1,878 and at
//! 1,973 MHz, 5 % of its joules and 3 % of its time apart. A warmer chip takes more: 3 to 5 % of the joules for 10 K
//! (`benches/record/nvidia-h100/clocks.txt`). Both are measured, so the regression can tell them from what modules cost, and states costs for the
//! clock and the temperature of the whole program.

use super::{Resolved, Trials};
use crate::conditions::AT_POWER_CAP;
use crate::experiment::Target;
use crate::report::json::{PhaseProfile, WindowRow};
use crate::statistics::Summary;

/// A condition that trials differ in.
struct Condition {
    quantity: &'static str,
    /// What a difference of [`Condition::said`] is called.
    name: &'static str,
    /// The difference that effects are told for.
    said: f64,
    /// Whether a power cap sets it. Then it follows from what is run and is part of what that costs: a class would be
    /// blamed for a clock that it has brought about itself.
    is_set_by_power_cap: bool,
    of: fn(&Resolved<'_>) -> Option<f64>,
    of_window: fn(&WindowRow) -> Option<f64>,
    /// A value for people.
    show: fn(f64) -> String,
    /// How far from the reference a value is, so that an effect of 1 is as large as is to be expected: energy and time
    /// change with the clock about as the clock does, and by 5 % for 10 K at most.
    distance: fn(value: f64, reference: f64) -> f64,
}

const CONDITIONS: [Condition; 2] = [
    Condition {
        quantity: "clock",
        name: "a clock 1 % higher",
        said: 0.01,
        is_set_by_power_cap: true,
        of: |resolved| resolved.trial.clock_hz,
        of_window: |window| window.clock_hz,
        show: |clock_hz| format!("{:.0} MHz", clock_hz * 1e-6),
        distance: |clock_hz, reference_hz| clock_hz / reference_hz - 1.0,
    },
    Condition {
        quantity: "temperature",
        name: "10 K more",
        said: 0.05,
        is_set_by_power_cap: false,
        of: |resolved| resolved.temperature_c,
        of_window: |window| window.temperature_c,
        show: |temperature_c| format!("{temperature_c:.1} °C"),
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
            let reference: Option<Vec<f64>> = trials.of(Target::Whole).map(condition.of).collect();
            let reference = reference.filter(|values| !values.is_empty())?;
            let is_told = all().all(|resolved| (condition.of)(resolved).is_some());
            let is_free = !(condition.is_set_by_power_cap && is_capped);
            (is_told && is_free).then(|| (condition, Summary::of(&reference).mean))
        };
        Conditions(CONDITIONS.iter().filter_map(known).collect())
    }

    /// How far a trial was from the whole program.
    pub(super) fn distances(&self, resolved: &Resolved<'_>) -> Vec<f64> {
        let distance = |(condition, reference): &(&Condition, f64)| {
            (condition.of)(resolved).map_or(0.0, |value| (condition.distance)(value, *reference))
        };
        self.0.iter().map(distance).collect()
    }

    /// Names of differences, and how large these are.
    pub(super) fn said(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(condition, _)| (condition.name, condition.said))
    }
}

impl Condition {
    /// On average over the whole programs of a phase, where it is known of each.
    fn of_whole(&self, phase: &PhaseProfile) -> Option<f64> {
        let wholes = phase.windows.iter().filter(|window| window.target == "whole");
        let values: Vec<f64> = wholes.map(self.of_window).collect::<Option<_>>()?;
        (!values.is_empty()).then(|| Summary::of(&values).mean)
    }
}

/// What is known of the conditions in which the whole program ran: quantity and mean.
pub(crate) fn of_whole(phase: &PhaseProfile) -> impl Iterator<Item = (&'static str, String)> {
    let known =
        |condition: &Condition| Some((condition.quantity, (condition.show)(condition.of_whole(phase)?)));
    CONDITIONS.iter().filter_map(known)
}

/// What the conditions of a phase's whole programs make of its joules beside those of another.
pub(crate) struct Shift {
    /// In which conditions the second was, and the first.
    pub(crate) conditions: String,
    /// How much more joules that is expected to take, relative.
    pub(crate) relative: f64,
    /// Half width of its 95 % interval.
    pub(crate) relative_ci95: f64,
}

impl Shift {
    /// From one phase to another, by those effects that one of them has told, the better if both have.
    pub(crate) fn between(first: &PhaseProfile, second: &PhaseProfile) -> Option<Shift> {
        let effect = |condition: &Condition| -> Option<(f64, f64)> {
            let phases = [first, second].into_iter().filter_map(|phase| phase.regression.as_ref());
            let effects = phases.flat_map(|regression| &regression.effects);
            let named = effects.filter(|effect| effect.name == condition.name);
            let known = named.filter_map(|effect| Some((effect.relative, effect.relative_ci95?)));
            known.min_by(|a, b| a.1.total_cmp(&b.1))
        };
        let (mut said, mut relative, mut squares) = (Vec::new(), 0.0, 0.0);
        for condition in &CONDITIONS {
            let means = condition.of_whole(first).zip(condition.of_whole(second));
            let Some(((from, to), (effect, ci95))) = means.zip(effect(condition)) else { continue };
            let differences = (condition.distance)(to, from) / condition.said;
            relative += effect * differences;
            squares += (ci95 * differences).powi(2);
            said.push(format!("{} instead of {}", (condition.show)(to), (condition.show)(from)));
        }
        let conditions = said.join(" and ");
        (!said.is_empty()).then(|| Shift { conditions, relative, relative_ci95: squares.sqrt() })
    }
}
