//! What a reader of a phase should know besides its figures.

use std::collections::BTreeMap;

use super::Trials;
use crate::energy::Provenance;
use crate::experiment::{Record, Target};
use crate::report::json::{Attribution, Closure, Whole};

/// How far a closure may lie from 1 without a word.
const CLOSES_WITHIN: f64 = 0.05;

pub(super) fn all(
    trials: &Trials<'_>,
    record: &Record,
    whole: &Whole,
    closure: &Closure,
    attribution: Attribution,
    borne: &[&str],
) -> Vec<String> {
    let mut notes = silences(trials);
    notes.extend(record.notes.iter().cloned());
    notes.extend(flags(trials));
    if attribution == Attribution::Regression && !borne.is_empty() {
        notes.push(format!(
            "{} modules ({}) are done on the way by the products beside them, whose joules include theirs",
            borne.len(),
            kinds(borne)
        ));
    }
    if !record.replayed.is_empty() && record.replayed.len() < trials.parts.len() {
        notes.push(format!(
            "{} of {} modules were replayed (first, middle and last of equal ones); they stand for the others",
            record.replayed.len(),
            trials.parts.len()
        ));
    }
    let mut repeated = trials.resolved.iter().filter(|resolved| resolved.trial.target == Target::Repeated);
    let has_energy = repeated.any(|resolved| resolved.seen.energy.energy_j.is_some());
    if record.is_complete && has_energy && closure.regression.is_none() {
        notes.push(
            "the extra runs do not tell the classes of modules apart: there is no regression".to_owned(),
        );
    }
    let ratio = |closure: &Option<crate::report::json::EnergyClosure>| closure.as_ref()?.ratio;
    match (attribution, ratio(&closure.regression), ratio(&closure.replay)) {
        (Attribution::Regression, Some(ratio), _) if (ratio - 1.0).abs() > CLOSES_WITHIN => {
            let half_width = closure.regression.as_ref().and_then(|closure| closure.ratio_ci95).unwrap_or(0.0);
            let why = if (ratio - 1.0).abs() <= half_width {
                "more trials would tell whether that is all of it"
            } else {
                "neighbours share work that none of them does alone, weights were warmer or colder in the extra runs \
                 than in the program, or the machine was busy; the row `unattributed` says how much"
            };
            let interval = if half_width > 0.0 { format!(" ± {:.0}", 100.0 * half_width) } else { String::new() };
            notes.push(format!(
                "by regression the modules account for {:.0}{interval} % of the whole: {why}",
                100.0 * ratio
            ));
        }
        (Attribution::FirstOrder, _, Some(ratio)) => notes.push(format!(
            "replayed by themselves, the modules account for {:.0} % of the whole (their weights stay in the caches, or \
             the machine was busy): the rows show first-order energies instead",
            100.0 * ratio
        )),
        _ => {}
    }
    if whole.energy.provenance == Provenance::Estimated {
        notes.push("no sensor measures this device: every joule is an estimate".to_owned());
    }
    notes
}

/// Each once, in the order of first appearance.
fn kinds(names: &[&str]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    names.iter().for_each(|name| {
        if !kinds.contains(name) {
            kinds.push(name);
        }
    });
    kinds.join(", ")
}

/// What sensors said, or did not, of windows that stayed unresolved.
fn silences(trials: &Trials<'_>) -> Vec<String> {
    let programs = [Target::Whole, Target::Observed, Target::Repeated, Target::Mixture];
    let of_programs = trials.resolved.iter().filter(|resolved| programs.contains(&resolved.trial.target));
    let mut counts: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    let mut n = 0;
    for resolved in of_programs {
        n += 1;
        if let Some(reason) = &resolved.seen.reason {
            *counts.entry((reason, resolved.seen.is_lost)).or_default() += 1;
        }
    }
    let note = |((reason, is_lost), count): (&(&str, bool), &usize)| {
        let consequence = if *is_lost { " (left out)" } else { "" };
        format!("{count} of {n} windows of the program are unresolved{consequence}: {reason}")
    };
    counts.iter().map(note).collect()
}

/// What spoke against trials.
fn flags(trials: &Trials<'_>) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for flag in trials.resolved.iter().flat_map(|resolved| &resolved.trial.flags) {
        *counts.entry(flag).or_default() += 1;
    }
    let n = trials.resolved.len();
    counts.iter().map(|(flag, count)| format!("{count} of {n} trials: {flag}")).collect()
}
