//! What each format saves: energy and time of a request, group by group, measured on this device.
//!
//! The whole model is run in each strategy, in turns with the reference, and profiled in place; a group's cost under a
//! strategy is that of its modules in the model that has this strategy everywhere. Groups of equal shape cost the same
//! and are taken together. In one strategy they add up to what it takes everywhere, in one piece (`request`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::group::Group;
use super::median::Median;
use super::request::{Figure, RequestCost};
use super::turns::{Turn, relative_to_reference};
use crate::energy::Provenance;
use crate::report::json::Attribution;

/// What a strategy costs a group, compared with the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairCost {
    /// Energy of a request in this group.
    pub energy_j: f64,
    /// Time of a request in this group.
    pub duration_s: f64,
    /// Energy less than under the reference.
    pub saving_j: f64,
    /// Half width of the 95 % interval of the saving; 0 for the reference itself.
    pub saving_ci95_j: Option<f64>,
    /// Time less than under the reference.
    pub saving_s: f64,
    /// Half width of its 95 % interval.
    pub saving_ci95_s: Option<f64>,
    /// `estimated` where the pair was not run, whatever the sensor.
    pub provenance: Provenance,
    /// The pair was run and its energy resolved; else its energy follows from its bytes.
    pub is_measured: bool,
}

/// What every strategy costs every group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// By group, then by strategy; the reference is strategy 0.
    pub pairs: Vec<Vec<PairCost>>,
    /// The whole request under the reference: median over all turns.
    pub reference: Figure,
    /// By strategy: energy of all modules apart from each other, as a multiple of the whole's, of which groups have their
    /// share; `None` where it was not resolved.
    #[serde(default)]
    pub closures: Vec<Option<f64>>,
    /// Attribution that the energies of the groups come from.
    pub attribution: Attribution,
    /// How far to trust what was measured.
    pub provenance: Provenance,
    /// The sensors behind it.
    pub sensor: String,
    /// Systematic error, relative; it is common to all and cancels in ratios.
    pub systematic_relative: f64,
}

impl Costs {
    /// Sums up turns, by strategy; strategy 0 is the reference, which every turn has and which has none of its own.
    /// `size_bytes[group][strategy]` serves the cost model of pairs that no turn resolved.
    ///
    /// `None` when no turn resolved the reference itself.
    pub fn of_turns(groups: &[Group], turns: &[Vec<Turn>], size_bytes: &[Vec<Option<f64>>]) -> Option<Costs> {
        let all = || turns.iter().flatten().flat_map(|turn| [&turn.reference, &turn.own]);
        let first = all().next()?;
        // Figures of different attributions cannot be compared; every profile has the first-order one.
        let is_common = all().all(|cost| cost.attributions().eq(first.attributions()));
        let common = first.attributions().next().unwrap_or(Attribution::FirstOrder);
        let attribution = if is_common { common } else { Attribution::FirstOrder };
        let provenance = all().map(|cost| cost.provenance).max()?;
        let sum = |cost: &RequestCost, members: &[usize]| cost.of_groups(members, !is_common);
        let references = |of: &dyn Fn(&RequestCost) -> Figure| {
            let all: Vec<Figure> = turns.iter().flatten().map(|turn| of(&turn.reference)).collect();
            let energies: Vec<f64> = all.iter().filter_map(|figure| figure.energy_j).collect();
            let times: Vec<f64> = all.iter().map(|figure| figure.duration_s).collect();
            let energy_j = (!energies.is_empty()).then(|| Median::of(&energies).value);
            Figure { energy_j, duration_s: Median::of(&times).value }
        };
        let mut classes: BTreeMap<Class, Vec<usize>> = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            classes.entry(class(group)).or_default().push(index);
        }
        let mut pairs = vec![Vec::new(); groups.len()];
        for members in classes.values() {
            let n = members.len() as f64;
            let whole = references(&|cost| sum(cost, members));
            let reference_j = whole.energy_j? / n;
            let reference_s = whole.duration_s / n;
            for (strategy, turns) in turns.iter().enumerate() {
                let is_reference = strategy == 0;
                let energy = relative_to_reference(turns, |cost| sum(cost, members).energy_j);
                let time = relative_to_reference(turns, |cost| Some(sum(cost, members).duration_s));
                let half_width = |relative: &Median, of: f64| match relative.half_width() {
                    _ if is_reference => Some(0.0),
                    half_width => half_width.map(|half_width| of * half_width),
                };
                let relative_s = if is_reference { 1.0 } else { time.value };
                for &group in members {
                    let sizes = &size_bytes[group];
                    let share = sizes[strategy].zip(sizes[0]).map(|(own, reference)| own / reference);
                    let is_measured = is_reference || energy.n > 0;
                    let relative_j = match (is_reference, is_measured) {
                        (true, _) => 1.0,
                        (false, true) => energy.value,
                        // The cost model: a group that is bound by memory costs what its bytes cost.
                        (false, false) => share.unwrap_or(1.0),
                    };
                    pairs[group].push(PairCost {
                        energy_j: reference_j * relative_j,
                        duration_s: reference_s * relative_s,
                        saving_j: reference_j * (1.0 - relative_j),
                        saving_ci95_j: half_width(&energy, reference_j).filter(|_| is_measured),
                        saving_s: reference_s * (1.0 - relative_s),
                        saving_ci95_s: half_width(&time, reference_s),
                        provenance: if is_measured {
                            provenance.max(Provenance::Derived)
                        } else {
                            Provenance::Estimated
                        },
                        is_measured,
                    });
                }
            }
        }
        let everything: Vec<usize> = (0..groups.len()).collect();
        let together = references(&|cost| sum(cost, &everything));
        for (strategy, turns) in turns.iter().enumerate() {
            let relative = |of: &dyn Fn(&RequestCost) -> Option<f64>| match strategy {
                0 => Some(1.0),
                _ => Some(relative_to_reference(turns, of))
                    .filter(|relative| relative.n > 0)
                    .map(|it| it.value),
            };
            let energy = relative(&|cost| sum(cost, &everything).energy_j);
            let time = relative(&|cost| Some(sum(cost, &everything).duration_s));
            let energy_j = together.energy_j.zip(energy).map(|(all_j, relative)| all_j * relative);
            add_up(&mut pairs, strategy, energy_j, time.map(|relative| together.duration_s * relative));
        }
        let closures = turns.iter().enumerate().map(|(strategy, own)| {
            let costs: Vec<&RequestCost> = match strategy {
                0 => turns.iter().flatten().map(|turn| &turn.reference).collect(),
                _ => own.iter().map(|turn| &turn.own).collect(),
            };
            let all: Vec<f64> = costs.iter().filter_map(|cost| cost.closure(!is_common)).collect();
            (!all.is_empty()).then(|| Median::of(&all).value)
        });
        let closures = closures.collect();
        Some(Costs {
            pairs,
            reference: references(&|cost| cost.whole),
            closures,
            attribution,
            provenance,
            sensor: first.sensor.clone(),
            systematic_relative: all().map(|cost| cost.systematic_relative).fold(0.0, f64::max),
        })
    }
}

/// Makes the groups under a strategy add up to what they were measured to cost together: medians of parts do not add up to
/// the median of their sum. The reference comes first, so that savings are from what it adds up to.
fn add_up(pairs: &mut [Vec<PairCost>], strategy: usize, energy_j: Option<f64>, duration_s: Option<f64>) {
    let sum = |of: &dyn Fn(&PairCost) -> f64| -> f64 { pairs.iter().map(|row| of(&row[strategy])).sum() };
    let factor =
        |together: Option<f64>, sum: f64| together.filter(|_| sum > 0.0).map_or(1.0, |all| all / sum);
    let (of_j, of_s) =
        (factor(energy_j, sum(&|pair| pair.energy_j)), factor(duration_s, sum(&|pair| pair.duration_s)));
    for row in pairs {
        let reference = row[0];
        let pair = &mut row[strategy];
        (pair.energy_j, pair.duration_s) = (of_j * pair.energy_j, of_s * pair.duration_s);
        if strategy > 0 {
            pair.saving_j = reference.energy_j - pair.energy_j;
            pair.saving_s = reference.duration_s - pair.duration_s;
        }
        pair.saving_ci95_j = pair.saving_ci95_j.map(|ci95_j| of_j * ci95_j);
        pair.saving_ci95_s = pair.saving_ci95_s.map(|ci95_s| of_s * ci95_s);
    }
}

/// Groups that cost the same: what they do, and how many elements their weights have.
pub(super) type Class = (Vec<&'static str>, usize, usize);

pub(super) fn class(group: &Group) -> Class {
    (group.kinds.iter().map(|kind| kind.name()).collect(), group.weights.len(), group.parameters)
}
