//! One request under one plan: what it takes in one piece, and what its groups have of that.
//!
//! Modules are measured apart: in a program that is cut between them, or by what extra runs of them add. Plans run in one
//! piece, where neighbours share work, by more in some strategies than in others. So a group has its *share* of what the
//! program took in one piece, phase by phase, measured in the same turn. Only the planner's prediction is scaled so;
//! profiles and their closure stay as they were measured.

use std::ops::ControlFlow;

use joulewise_engine::{ModuleId, Session, TokenBatch};
use serde::{Deserialize, Serialize};

use super::group::Group;
use crate::energy::Provenance;
use crate::error::Result;
use crate::profile::{Setup, profile};
use crate::report::json::{Attribution, ModuleRow, PhaseProfile};
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

impl Figure {
    /// A module by an attribution.
    pub(super) fn of(row: &ModuleRow, attribution: Attribution) -> Figure {
        Figure { energy_j: row.energy(attribution).energy_j, duration_s: row.timing(attribution).duration_s }
    }

    /// The sum of some figures.
    pub(super) fn sum(figures: impl IntoIterator<Item = Figure>) -> Figure {
        let none = Figure { energy_j: Some(0.0), duration_s: 0.0 };
        figures.into_iter().fold(none, |sum, figure| Figure {
            energy_j: sum.energy_j.zip(figure.energy_j).map(|(sum_j, energy_j)| sum_j + energy_j),
            duration_s: sum.duration_s + figure.duration_s,
        })
    }

    /// So many times the figure.
    pub(super) fn times(self, times: f64) -> Figure {
        Figure {
            energy_j: self.energy_j.map(|energy_j| times * energy_j),
            duration_s: times * self.duration_s,
        }
    }

    /// A part of `whole`, by its share of what `all` parts were measured to add up to.
    pub(super) fn share(self, all: Figure, whole: Figure) -> Figure {
        let share = |part: f64, all: f64, whole: f64| if all > 0.0 { part / all * whole } else { part };
        let energies = self.energy_j.zip(all.energy_j).zip(whole.energy_j);
        Figure {
            energy_j: energies.map(|((part_j, all_j), whole_j)| share(part_j, all_j, whole_j)),
            duration_s: share(self.duration_s, all.duration_s, whole.duration_s),
        }
    }
}

/// What the modules of a program cost apart from each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apart {
    /// All of them.
    pub all: Figure,
    /// Those of each group.
    pub groups: Vec<Figure>,
}

/// One phase of a request under one plan, measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseCost {
    /// How often a request has it.
    pub times: f64,
    /// The program in one piece.
    pub whole: Figure,
    /// The attribution that the profile prefers.
    pub attribution: Attribution,
    /// Its modules by this attribution.
    pub apart: Apart,
    /// Its modules by their share of the time.
    pub apart_first_order: Apart,
}

impl PhaseCost {
    fn of(phase: &PhaseProfile, times: f64, groups: &[Group]) -> PhaseCost {
        let apart = |attribution: Attribution| {
            let of = |is_counted: &dyn Fn(ModuleId) -> bool| {
                let rows = phase.modules.iter().filter(|row| is_counted(ModuleId(row.id)));
                Figure::sum(rows.map(|row| Figure::of(row, attribution)))
            };
            let of_group = |group: &Group| {
                of(&|module| group.modules.contains(&module) || group.followers.contains(&module))
            };
            Apart { all: of(&|_| true), groups: groups.iter().map(of_group).collect() }
        };
        PhaseCost {
            times,
            whole: Figure { energy_j: phase.whole.energy.energy_j, duration_s: phase.whole.time.duration_s },
            attribution: phase.attribution,
            apart: apart(phase.attribution),
            apart_first_order: apart(Attribution::FirstOrder),
        }
    }
}

/// One request under one plan, measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestCost {
    /// The whole, in one piece.
    pub whole: Figure,
    /// What it consists of.
    pub phases: Vec<PhaseCost>,
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
    pub fn of_phases(groups: &[Group], phases: &[(PhaseProfile, f64)]) -> RequestCost {
        let energies = || phases.iter().map(|(phase, _)| &phase.whole.energy);
        let relative = energies().filter_map(|energy| energy.energy_j.map(|j| energy.systematic_j / j.abs()));
        let costs: Vec<PhaseCost> =
            phases.iter().map(|(phase, times)| PhaseCost::of(phase, *times, groups)).collect();
        RequestCost {
            whole: Figure::sum(costs.iter().map(|phase| phase.whole.times(phase.times))),
            phases: costs,
            provenance: energies().map(|e| e.provenance).max().unwrap_or(Provenance::Unresolved),
            sensor: energies().map(|energy| energy.sensor.clone()).next().unwrap_or_default(),
            systematic_relative: relative.fold(0.0, f64::max),
        }
    }

    /// The attribution that each phase prefers.
    pub(super) fn attributions(&self) -> impl Iterator<Item = Attribution> {
        self.phases.iter().map(|phase| phase.attribution)
    }

    /// Energy of all modules apart from each other, as a multiple of the whole's.
    pub(super) fn closure(&self, is_first_order: bool) -> Option<f64> {
        let apart = Figure::sum(self.phases.iter().map(|phase| {
            let apart = if is_first_order { &phase.apart_first_order } else { &phase.apart };
            apart.all.times(phase.times)
        }));
        apart.energy_j.zip(self.whole.energy_j).map(|(apart_j, whole_j)| apart_j / whole_j)
    }

    /// What some groups cost of the whole, phase by phase.
    pub(super) fn of_groups(&self, groups: &[usize], is_first_order: bool) -> Figure {
        Figure::sum(self.phases.iter().map(|phase| {
            let apart = if is_first_order { &phase.apart_first_order } else { &phase.apart };
            let own = Figure::sum(groups.iter().map(|group| apart.groups[*group]));
            own.share(apart.all, phase.whole).times(phase.times)
        }))
    }
}
