//! Two profiles side by side: what changed, by how much, and whether that is more than chance.
//!
//! Rows are compared by Welch's t-test on means and their intervals; the p-values of one phase and quantity are
//! corrected together by Holm's method, so that a table of forty layers does not call two of them different by chance.
//! The sensor's gain is common to both profiles when sensor and machine are; when they are not, the comparison says so,
//! and its systematic term does not cancel.
//!
//! A card that is warmer takes more joules for the same. Where profiles have told what conditions do, joules are compared
//! a second time with that taken off the second, and its doubt added.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::attribution::conditions::Shift;
use crate::energy::{Energy, Provenance};
use crate::protocol::Protocol;
use crate::report::json::{GroupRow, PhaseProfile, Profile, Timing};
use crate::statistics::{Summary, compare_summaries, holm, t_quantile};

/// Two profiles, compared.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileComparison {
    /// What a reader should know.
    pub notes: Vec<String>,
    /// The phases that both have.
    pub phases: Vec<PhaseComparison>,
}

/// A phase of two profiles.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseComparison {
    /// The phase, with its model.
    pub name: String,
    /// One row per quantity and part.
    pub rows: Vec<ComparedRow>,
}

/// One figure of two profiles.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedRow {
    /// `energy` or `time`.
    pub quantity: &'static str,
    /// `whole`, `layer`, `kind` or `module`.
    pub level: &'static str,
    /// Which one.
    pub name: String,
    /// Mean of the first, in joules or seconds.
    pub first: f64,
    /// Mean of the second.
    pub second: f64,
    /// Second over first, less 1; `None` where the first is 0.
    pub change: Option<f64>,
    /// Half width of the 95 % interval of the change.
    pub change_ci95: Option<f64>,
    /// Difference in standard deviations of a trial (Hedges' g).
    pub effect: Option<f64>,
    /// Probability of such a difference between equal means.
    pub p_value: Option<f64>,
    /// The same, corrected for the number of rows.
    pub p_corrected: Option<f64>,
    /// Whether the corrected probability is below 0.05.
    pub is_significant: bool,
    /// The lesser of both.
    pub provenance: Option<Provenance>,
    /// Joules without what the conditions of the second are expected to make of them; `None` where no effect of theirs is
    /// known.
    pub at_equal_conditions: Option<EqualConditions>,
}

/// What is left of a change when the second has run under the conditions of the first.
#[derive(Clone, Debug, Serialize)]
pub struct EqualConditions {
    /// As in [`ComparedRow`].
    pub change: Option<f64>,
    /// Half width of its 95 % interval, that of the conditions' effects included.
    pub change_ci95: Option<f64>,
    /// Probability of such a difference between equal means, corrected for the number of rows.
    pub p_corrected: Option<f64>,
    /// Whether that is below 0.05.
    pub is_significant: bool,
}

/// A mean with its interval and what it is the mean of.
struct Figure<'a> {
    name: &'a str,
    mean: Option<f64>,
    ci95: Option<f64>,
    n: usize,
    provenance: Option<Provenance>,
}

impl<'a> Figure<'a> {
    fn energy(name: &'a str, energy: &Energy) -> Self {
        let (mean, ci95) = (energy.energy_j, energy.ci95_j);
        Figure { name, mean, ci95, n: energy.n, provenance: Some(energy.provenance) }
    }

    fn time(name: &'a str, time: &Timing) -> Self {
        let mean = (time.duration_s > 0.0).then_some(time.duration_s);
        Figure { name, mean, ci95: time.ci95_s, n: time.n, provenance: None }
    }

    /// Without what other conditions are expected to make of it.
    fn without(&self, shift: &Shift) -> Self {
        let factor = 1.0 + shift.relative;
        let mean = self.mean.map(|mean| mean / factor);
        let of_shift = mean.map(|mean| mean * shift.relative_ci95 / factor);
        let ci95 = self.ci95.zip(of_shift).map(|(own, of_shift)| (own / factor).hypot(of_shift));
        Figure { mean, ci95, ..*self }
    }

    /// The sample that has this mean and interval.
    fn summary(&self) -> Option<Summary> {
        let (mean, ci95) = (self.mean?, self.ci95?);
        let n = self.n as f64;
        (self.n >= 2).then(|| Summary {
            n: self.n,
            mean,
            standard_deviation: Some(ci95 / t_quantile(0.975, n - 1.0) * n.sqrt()),
            ci95: Some(ci95),
        })
    }
}

/// Compares two profiles, phase by phase: those of one name and shape, of the same place in the list of models.
pub fn compare(first: &Profile, second: &Profile) -> ProfileComparison {
    let (mut phases, mut of_phases) = (Vec::new(), Vec::new());
    for (a, b) in first.models.iter().zip(&second.models) {
        for old in &a.phases {
            let same = |other: &&PhaseProfile| {
                (&other.name, other.batch, other.tokens, other.kv_length)
                    == (&old.name, old.batch, old.tokens, old.kv_length)
            };
            let Some(new) = b.phases.iter().find(same) else { continue };
            let model = if a.model.name == b.model.name {
                a.model.name.clone()
            } else {
                format!("{} against {}", a.model.name, b.model.name)
            };
            let [precision, other] = [&a.model, &b.model].map(|model| match &model.cache_format {
                Some(cache) if a.model.cache_format != b.model.cache_format => {
                    format!("{}, {cache} cache", model.precision)
                }
                _ => model.precision.clone(),
            });
            let precisions =
                if precision == other { precision } else { format!("{precision} against {other}") };
            let shape = format!("batch {}, {} tokens", old.batch, old.tokens);
            let name = format!("{model} {} ({precisions}, {shape})", old.name);
            if old.attribution != new.attribution {
                of_phases.push(format!(
                    "{name}: parts are attributed by {} and by {}, whose differences are no change",
                    old.attribution.name(),
                    new.attribution.name()
                ));
            }
            let shift = Shift::between(old, new);
            if let Some(Shift { conditions, relative, relative_ci95 }) = &shift {
                of_phases.push(format!(
                    "{name}: the second ran at {conditions}, which is expected to make {:+.1} ± {:.1} % of the joules",
                    100.0 * relative,
                    100.0 * relative_ci95
                ));
            }
            phases.push(PhaseComparison { name, rows: rows(old, new, shift.as_ref()) });
        }
    }
    let notes = [notes(first, second, phases.is_empty()), of_phases].concat();
    ProfileComparison { notes, phases }
}

fn notes(first: &Profile, second: &Profile, is_empty: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let primary = |profile: &Profile| -> BTreeSet<String> {
        profile.sensors.iter().filter(|sensor| sensor.is_primary).map(|sensor| sensor.name.clone()).collect()
    };
    let join = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(" + ");
    let (a, b) = (primary(first), primary(second));
    if a != b {
        notes.push(format!("different sensors ({} and {}): their gains do not cancel", join(a), join(b)));
    }
    if first.environment.cpu_model != second.environment.cpu_model {
        notes.push("different machines".to_owned());
    }
    let (a, b) = (&first.environment.gpus, &second.environment.gpus);
    if a != b && !a.is_empty() && !b.is_empty() {
        let (a, b) = (a.join(", "), b.join(", "));
        notes.push(format!("different GPUs ({a} and {b}): the gains of their sensors do not cancel"));
    }
    let differences = differences(&first.protocol, &second.protocol);
    if !differences.is_empty() {
        notes.push(format!("different protocols: {}", differences.join(", ")));
    }
    for (name, profile) in [("first", first), ("second", second)] {
        if !profile.is_complete {
            notes.push(format!("the {name} profile is unfinished"));
        }
    }
    if is_empty {
        notes.push("the profiles have no phase of one name and shape".to_owned());
    }
    notes
}

/// What two protocols differ in but the seed, another of which is what makes it a repetition.
fn differences(first: &Protocol, second: &Protocol) -> Vec<String> {
    let fields = |protocol: &Protocol| match serde_json::to_value(protocol) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let others = fields(second);
    let difference = |(name, value): (String, serde_json::Value)| {
        let other = others.get(&name)?;
        (value != *other && name != "seed").then(|| format!("{name} {value} and {other}"))
    };
    fields(first).into_iter().filter_map(difference).collect()
}

fn rows(old: &PhaseProfile, new: &PhaseProfile, shift: Option<&Shift>) -> Vec<ComparedRow> {
    let (by_old, by_new) = (old.attribution, new.attribution);
    let groups = |level, old: &[GroupRow], new: &[GroupRow]| -> Vec<ComparedRow> {
        let energy: Vec<_> = old.iter().map(|row| Figure::energy(&row.name, row.energy(by_old))).collect();
        let other: Vec<_> = new.iter().map(|row| Figure::energy(&row.name, row.energy(by_new))).collect();
        let time: Vec<_> = old.iter().map(|row| Figure::time(&row.name, &row.time)).collect();
        let other_time: Vec<_> = new.iter().map(|row| Figure::time(&row.name, &row.time)).collect();
        [joules(level, &energy, &other, shift), corrected("time", level, &time, &other_time)].concat()
    };
    let whole = |phase: &PhaseProfile| {
        (Figure::energy("whole", &phase.whole.energy), Figure::time("whole", &phase.whole.time))
    };
    let ((old_j, old_s), (new_j, new_s)) = (whole(old), whole(new));
    let modules: Vec<_> =
        old.modules.iter().map(|row| Figure::energy(&row.path, row.energy(by_old))).collect();
    let other_modules: Vec<_> =
        new.modules.iter().map(|row| Figure::energy(&row.path, row.energy(by_new))).collect();
    [
        joules("whole", &[old_j], &[new_j], shift),
        corrected("time", "whole", &[old_s], &[new_s]),
        groups("layer", &old.layers, &new.layers),
        groups("kind", &old.kinds, &new.kinds),
        joules("module", &modules, &other_modules, shift),
    ]
    .concat()
}

/// Rows of joules, as they are and at equal conditions.
fn joules(
    level: &'static str,
    old: &[Figure<'_>],
    new: &[Figure<'_>],
    shift: Option<&Shift>,
) -> Vec<ComparedRow> {
    let mut rows = corrected("energy", level, old, new);
    // An effect that is hardly known may make less than nothing of them.
    if let Some(shift) = shift.filter(|shift| shift.relative > -1.0) {
        let new: Vec<Figure<'_>> = new.iter().map(|figure| figure.without(shift)).collect();
        for (row, equal) in rows.iter_mut().zip(corrected("energy", level, old, &new)) {
            let ComparedRow { change, change_ci95, p_corrected, is_significant, .. } = equal;
            row.at_equal_conditions =
                Some(EqualConditions { change, change_ci95, p_corrected, is_significant });
        }
    }
    rows
}

/// The rows that both have, corrected as one family.
fn corrected(
    quantity: &'static str,
    level: &'static str,
    old: &[Figure<'_>],
    new: &[Figure<'_>],
) -> Vec<ComparedRow> {
    let mut rows: Vec<ComparedRow> = old
        .iter()
        .filter_map(|old| {
            let new = new.iter().find(|new| new.name == old.name)?;
            let (first, second) = (old.mean?, new.mean?);
            let summaries = old.summary().zip(new.summary());
            let test = summaries.as_ref().and_then(|(old, new)| compare_summaries(old, new));
            let is_something = first != 0.0;
            // What others do on the way is nothing in both.
            (is_something || second != 0.0).then(|| ComparedRow {
                quantity,
                level,
                name: old.name.to_owned(),
                first,
                second,
                change: is_something.then(|| second / first - 1.0),
                change_ci95: test.filter(|_| is_something).map(|test| test.ci95 / first.abs()),
                effect: summaries.and_then(|(old, new)| hedges(&old, &new)),
                p_value: test.map(|test| test.p_value),
                p_corrected: None,
                is_significant: false,
                provenance: old.provenance.zip(new.provenance).map(|(old, new)| old.max(new)),
                at_equal_conditions: None,
            })
        })
        .collect();
    let tested: Vec<usize> = (0..rows.len()).filter(|&index| rows[index].p_value.is_some()).collect();
    let p_values: Vec<f64> = tested.iter().filter_map(|&index| rows[index].p_value).collect();
    for (index, p_value) in tested.into_iter().zip(holm(&p_values)) {
        rows[index].p_corrected = Some(p_value);
        rows[index].is_significant = p_value < 0.05;
    }
    rows
}

/// Difference in pooled standard deviations, with Hedges' correction for small samples.
fn hedges(first: &Summary, second: &Summary) -> Option<f64> {
    let (n1, n2) = (first.n as f64, second.n as f64);
    let squares =
        (n1 - 1.0) * first.standard_deviation?.powi(2) + (n2 - 1.0) * second.standard_deviation?.powi(2);
    let pooled = (squares / (n1 + n2 - 2.0)).sqrt();
    (pooled > 0.0).then(|| (second.mean - first.mean) / pooled * (1.0 - 3.0 / (4.0 * (n1 + n2) - 9.0)))
}
