//! What each format saves: energy and time of a request, group by group, measured on this device.
//!
//! The whole model is run in each strategy, in turns with the reference, and profiled in place; a group's cost under a
//! strategy is that of its modules in the model that has this strategy everywhere. Groups of equal shape cost the same
//! and are taken together. Nothing is interpolated.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use joulewise_engine::{ModuleId, Session, TokenBatch};
use serde::{Deserialize, Serialize};

use super::group::Group;
use super::median::Median;
use super::turns::{Turn, relative_to_reference};
use crate::energy::Provenance;
use crate::error::Result;
use crate::profile::{Setup, profile};
use crate::report::json::{Attribution, PhaseProfile};
use crate::workload::SessionWorkload;

/// The work that a plan is made for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt, or the input of an encoder.
    pub prompt: TokenBatch,
    /// Tokens that are generated behind it; 0 for encoders.
    pub generate: usize,
}

/// Energy and time, unless a sensor left the energy open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Energy.
    pub energy_j: Option<f64>,
    /// Time.
    pub duration_s: f64,
}

/// One request under one plan, measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestCost {
    /// The whole, in one piece.
    pub whole: Figure,
    /// Each group, by the attribution that the profile prefers.
    pub groups: Vec<Figure>,
    /// Each group by its share of the time.
    pub groups_first_order: Vec<Figure>,
    /// The attribution that each phase prefers.
    pub attributions: Vec<Attribution>,
    /// How far to trust the energies.
    pub provenance: Provenance,
    /// The sensors behind them.
    pub sensor: String,
    /// Systematic error of the energies, relative.
    pub systematic_relative: f64,
}

impl RequestCost {
    /// Measures one request.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn measure(
        session: &mut Session,
        request: &Request,
        groups: &[Group],
        setup: &Setup<'_>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<RequestCost> {
        let run = |workload: &mut SessionWorkload<'_>| {
            profile(workload, setup, &mut |_| {
                if is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        let mut phases = Vec::new();
        if session.graph().cache.is_some() && request.generate > 0 {
            phases.push((run(&mut SessionWorkload::prefill(session, &request.prompt)?)?, 1.0));
            let decode = run(&mut SessionWorkload::decode(session, &request.prompt)?)?;
            phases.push((decode, request.generate as f64));
        } else {
            phases.push((run(&mut SessionWorkload::forward(session, &request.prompt)?)?, 1.0));
        }
        Ok(Self::of_phases(groups, &phases))
    }

    /// Sums up phases, each with how often a request has it.
    pub(super) fn of_phases(groups: &[Group], phases: &[(PhaseProfile, f64)]) -> RequestCost {
        let sum = |of: &dyn Fn(&PhaseProfile) -> Figure| -> Figure {
            let parts = phases.iter().map(|(phase, times)| (of(phase), *times));
            let energy_j: Option<f64> =
                parts.clone().map(|(part, times)| part.energy_j.map(|energy_j| energy_j * times)).sum();
            Figure { energy_j, duration_s: parts.map(|(part, times)| part.duration_s * times).sum() }
        };
        let of_group = |group: &Group, is_first_order: bool| {
            sum(&|phase| {
                let attribution = if is_first_order { Attribution::FirstOrder } else { phase.attribution };
                let is_of = |id: ModuleId| group.modules.contains(&id) || group.followers.contains(&id);
                let rows: Vec<_> = phase.modules.iter().filter(|row| is_of(ModuleId(row.id))).collect();
                Figure {
                    energy_j: rows.iter().map(|row| row.energy(attribution).energy_j).sum(),
                    duration_s: rows.iter().map(|row| row.timing(attribution).duration_s).sum(),
                }
            })
        };
        let energies = || phases.iter().map(|(phase, _)| &phase.whole.energy);
        let relative = energies().filter_map(|energy| energy.energy_j.map(|j| energy.systematic_j / j.abs()));
        RequestCost {
            whole: sum(&|phase| Figure {
                energy_j: phase.whole.energy.energy_j,
                duration_s: phase.whole.time.duration_s,
            }),
            groups: groups.iter().map(|group| of_group(group, false)).collect(),
            groups_first_order: groups.iter().map(|group| of_group(group, true)).collect(),
            attributions: phases.iter().map(|(phase, _)| phase.attribution).collect(),
            provenance: energies().map(|e| e.provenance).max().unwrap_or(Provenance::Unresolved),
            sensor: energies().map(|energy| energy.sensor.clone()).next().unwrap_or_default(),
            systematic_relative: relative.fold(0.0, f64::max),
        }
    }
}

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
        let is_common = all().all(|cost| cost.attributions == first.attributions);
        let common = first.attributions.first().copied().unwrap_or(Attribution::FirstOrder);
        let attribution = if is_common { common } else { Attribution::FirstOrder };
        let provenance = all().map(|cost| cost.provenance).max()?;
        let sum = |cost: &RequestCost, members: &[usize]| {
            let groups = if is_common { &cost.groups } else { &cost.groups_first_order };
            Figure {
                energy_j: members.iter().map(|group| groups[*group].energy_j).sum(),
                duration_s: members.iter().map(|group| groups[*group].duration_s).sum(),
            }
        };
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
        Some(Costs {
            pairs,
            reference: references(&|cost| cost.whole),
            attribution,
            provenance,
            sensor: first.sensor.clone(),
            systematic_relative: all().map(|cost| cost.systematic_relative).fold(0.0, f64::max),
        })
    }
}

/// Groups that cost the same: what they do, and how many elements their weights have.
pub(super) type Class = (Vec<&'static str>, usize, usize);

pub(super) fn class(group: &Group) -> Class {
    (group.kinds.iter().map(|kind| kind.name()).collect(), group.weights.len(), group.parameters)
}
