//! What each format saves: energy and time of a request, group by group, measured on this device.
//!
//! The whole model is run in each strategy, round after round in shuffled order, and profiled in place; a group's cost
//! under a strategy is that of its modules in the model that has this strategy everywhere. Rounds pair every strategy
//! with the reference minutes apart at most, so drift of clock and load mostly cancels in the difference, and groups
//! of equal shape stand for each other, so their noise shrinks with the number of layers. Nothing is interpolated.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use joulewise_engine::{ModelGraph, Session, TokenBatch};
use serde::{Deserialize, Serialize};

use super::group::Group;
use crate::energy::Provenance;
use crate::error::Result;
use crate::profile::{Setup, profile};
use crate::report::json::{Attribution, PhaseProfile};
use crate::statistics::Summary;
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
        Ok(Self::of_phases(session.graph(), groups, &phases))
    }

    /// Sums up phases, each with how often a request has it.
    fn of_phases(graph: &ModelGraph, groups: &[Group], phases: &[(PhaseProfile, f64)]) -> RequestCost {
        let sum = |of: &dyn Fn(&PhaseProfile) -> Figure| -> Figure {
            let parts = phases.iter().map(|(phase, times)| (of(phase), *times));
            let energy_j: Option<f64> =
                parts.clone().map(|(part, times)| part.energy_j.map(|energy_j| energy_j * times)).sum();
            Figure { energy_j, duration_s: parts.map(|(part, times)| part.duration_s * times).sum() }
        };
        let of_group = |group: &Group, is_first_order: bool| {
            sum(&|phase| {
                let attribution = if is_first_order { Attribution::FirstOrder } else { phase.attribution };
                let rows: Vec<_> =
                    phase.modules.iter().filter(|row| group.paths.contains(&row.path)).collect();
                debug_assert!(rows.iter().all(|row| graph.modules.find(&row.path).is_ok()));
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
    /// `estimated` where the pair was not run, whatever the sensor.
    pub provenance: Provenance,
    /// The pair was run; else its energy follows from its bytes.
    pub is_measured: bool,
}

/// What every strategy costs every group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// By group, then by strategy; the reference is strategy 0.
    pub pairs: Vec<Vec<PairCost>>,
    /// The whole request under the reference: mean over the rounds.
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
    /// Sums up rounds, `rounds[round][strategy]`; the reference is strategy 0. `size_bytes[group][strategy]` serves the
    /// cost model of pairs that no round resolved.
    ///
    /// `None` when no round resolved the reference itself.
    pub fn of_rounds(
        graph: &ModelGraph,
        groups: &[Group],
        rounds: &[Vec<RequestCost>],
        size_bytes: &[Vec<Option<f64>>],
    ) -> Option<Costs> {
        let first = rounds.first()?.first()?;
        let all = || rounds.iter().flatten();
        // Figures of different attributions cannot be compared; every profile has the first-order one.
        let is_common = all().all(|cost| cost.attributions == first.attributions);
        let common = first.attributions.first().copied().unwrap_or(Attribution::FirstOrder);
        let attribution = if is_common { common } else { Attribution::FirstOrder };
        let figures = |cost: &RequestCost, group: usize| {
            if is_common { cost.groups[group] } else { cost.groups_first_order[group] }
        };
        let mut classes: BTreeMap<Class, Vec<usize>> = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            classes.entry(class(graph, group)).or_default().push(index);
        }
        let mut pairs = vec![Vec::new(); groups.len()];
        for members in classes.values() {
            for strategy in 0..rounds[0].len() {
                // One difference per round and member: drift that both sides share is gone.
                let mut savings = Vec::new();
                let (mut energies, mut references, mut times) = (Vec::new(), Vec::new(), Vec::new());
                for (round, group) in rounds.iter().flat_map(|r| members.iter().map(move |g| (r, *g))) {
                    let (own, reference) = (figures(&round[strategy], group), figures(&round[0], group));
                    times.push(own.duration_s);
                    references.extend(reference.energy_j);
                    if let (Some(own), Some(reference)) = (own.energy_j, reference.energy_j) {
                        energies.push(own);
                        savings.push(reference - own);
                    }
                }
                if references.is_empty() {
                    return None;
                }
                let (energy, saving) = (Summary::of(&energies), Summary::of(&savings));
                for &group in members {
                    let sizes = &size_bytes[group];
                    let share = sizes[strategy].zip(sizes[0]).map(|(own, reference)| own / reference);
                    let reference_j = Summary::of(&references).mean;
                    pairs[group].push(if energies.is_empty() {
                        // The cost model: a group that is bound by memory costs what its bytes cost.
                        let energy_j = reference_j * share.unwrap_or(1.0);
                        PairCost {
                            energy_j,
                            duration_s: Summary::of(&times).mean,
                            saving_j: reference_j - energy_j,
                            saving_ci95_j: None,
                            provenance: Provenance::Estimated,
                            is_measured: false,
                        }
                    } else {
                        PairCost {
                            energy_j: energy.mean,
                            duration_s: Summary::of(&times).mean,
                            saving_j: saving.mean,
                            saving_ci95_j: if strategy == 0 { Some(0.0) } else { saving.ci95 },
                            provenance: all().map(|cost| cost.provenance).max()?.max(Provenance::Derived),
                            is_measured: true,
                        }
                    });
                }
            }
        }
        let wholes: Vec<Figure> = rounds.iter().map(|round| round[0].whole).collect();
        let energies: Vec<f64> = wholes.iter().filter_map(|whole| whole.energy_j).collect();
        let times: Vec<f64> = wholes.iter().map(|whole| whole.duration_s).collect();
        let energy_j = (!energies.is_empty()).then(|| Summary::of(&energies).mean);
        Some(Costs {
            pairs,
            reference: Figure { energy_j, duration_s: Summary::of(&times).mean },
            attribution,
            provenance: first.provenance,
            sensor: first.sensor.clone(),
            systematic_relative: all().map(|cost| cost.systematic_relative).fold(0.0, f64::max),
        })
    }
}

/// Groups that cost the same: what they do, and the shapes of their weights.
type Class = (Vec<&'static str>, Vec<usize>);

fn class(graph: &ModelGraph, group: &Group) -> Class {
    let kinds = group.kinds.iter().map(|kind| kind.name()).collect();
    (kinds, group.weights.iter().map(|weight| graph.weight(*weight).shape.elements()).collect())
}
