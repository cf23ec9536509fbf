//! What each format costs each group, by regression.
//!
//! Every strategy has a profile of its own, round by round in turns with the others, in which classes of modules are run
//! extra times behind the whole program (`regression`). Where a device fuses neighbours, cutting a program up makes it do
//! something else than it does at a time, and shares of time say what nobody wants to know; extra runs leave it as it is.

use std::ops::ControlFlow;

use joulewise_engine::{ModuleId, Session};
use serde::{Deserialize, Serialize};

use super::cost::{Class, Costs, PairCost, class};
use super::group::Group;
use super::request::{Figure, Request, RequestCost};
use crate::ballast::Cache;
use crate::energy::Provenance;
use crate::error::Result;
use crate::experiment::Protocol;
use crate::profile::{self, Setup};
use crate::report::json::{Attribution, ModuleRow, PhaseProfile, SensorRow};
use crate::resume;
use crate::workload::{SessionWorkload, Workload};

/// Rounds below which regression has no interval worth the name.
pub const LEAST_ROUNDS: usize = 3;

/// A request under one strategy: each of its phases, with how often a request has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestProfile {
    /// Prefill and decode, or the one pass of an encoder.
    pub phases: Vec<(PhaseProfile, f64)>,
}

/// How a request is profiled.
pub struct Regressed<'a> {
    /// The work.
    pub request: &'a Request,
    /// The sensors and how they are used.
    pub setup: &'a Setup<'a>,
    /// The device's caches.
    pub caches: &'a [Cache],
    /// Whether the user wants to stop.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

impl Regressed<'_> {
    /// One more round than `earlier` has.
    ///
    /// # Errors
    /// Those of the engine, and when `earlier` cannot be read.
    pub fn one_more(
        &self,
        session: &mut Session,
        earlier: Option<&RequestProfile>,
        round: usize,
    ) -> Result<RequestProfile> {
        let run = |place: usize, workload: &mut dyn Workload| {
            let earlier = earlier.and_then(|earlier| earlier.phases.get(place));
            one_more(workload, self.setup, earlier.map(|(phase, _)| phase), round, self.is_interrupted)
        };
        let prompt = &self.request.prompt;
        let caches = || self.caches.to_vec();
        let mut phases = Vec::new();
        if session.graph().cache.is_some() && self.request.generate > 0 {
            let prefill = run(0, &mut SessionWorkload::prefill(session, prompt)?.with_caches(caches()))?;
            phases.push((prefill, 1.0));
            let decode = run(1, &mut SessionWorkload::decode(session, prompt)?.with_caches(caches()))?;
            phases.push((decode, self.request.generate as f64));
        } else {
            let pass = run(0, &mut SessionWorkload::forward(session, prompt)?.with_caches(caches()))?;
            phases.push((pass, 1.0));
        }
        Ok(RequestProfile { phases })
    }
}

/// The profile of a workload with round number `round` behind those that `earlier` has.
///
/// # Errors
/// When the device fails, or `earlier` cannot be read.
pub fn one_more(
    workload: &mut dyn Workload,
    setup: &Setup<'_>,
    earlier: Option<&PhaseProfile>,
    round: usize,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<PhaseProfile> {
    let protocol = Protocol {
        regression: true,
        // As many rounds as are asked for, whatever they take.
        regression_limit_s: f64::INFINITY,
        time_limit_s: f64::INFINITY,
        trials: round + 1,
        min_trials: round + 1,
        max_trials: round + 1,
        ..setup.protocol.clone()
    };
    let setup = Setup { protocol: &protocol, work: setup.work.clone(), ..*setup };
    let primary = setup.meter.primary(setup.device);
    let sensors = setup.meter.sensors().iter().enumerate();
    let sensors: Vec<SensorRow> =
        sensors.map(|(index, info)| SensorRow::of(info, primary.contains(&index))).collect();
    let known = earlier.map(|phase| resume::record(phase, &sensors)).transpose()?;
    let mut phase = profile::resume(known.unwrap_or_default(), workload, &setup, &mut |_| {
        if is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    // They would be the last round's alone.
    phase.power_samples.clear();
    Ok(phase)
}

/// A figure and the half width of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounded {
    figure: Figure,
    ci95: Figure,
}

impl RequestProfile {
    /// The whole request.
    fn whole(&self, groups: &[Group]) -> RequestCost {
        RequestCost::of_phases(groups, &self.phases)
    }

    /// Whether all phases could be attributed by regression.
    fn is_regressed(&self) -> bool {
        self.phases.iter().all(|(phase, _)| phase.attribution == Attribution::Regression)
    }

    /// What some modules cost of a request, by their share of what all modules add up to. Those of one class are known or
    /// wrong together, so half widths add up.
    fn of_modules(&self, modules: &[ModuleId], attribution: Attribution) -> Bounded {
        let none = Figure { energy_j: Some(0.0), duration_s: 0.0 };
        let mut sum = Bounded { figure: none, ci95: none };
        let add = |sum: &mut Figure, figure: Figure| *sum = Figure::sum([*sum, figure]);
        for (phase, times) in &self.phases {
            let all = Figure::sum(phase.modules.iter().map(|row| Figure::of(row, attribution)));
            let whole =
                Figure { energy_j: phase.whole.energy.energy_j, duration_s: phase.whole.time.duration_s };
            let is_of = |row: &&ModuleRow| modules.contains(&ModuleId(row.id));
            for row in phase.modules.iter().filter(is_of) {
                let (energy, timing) = (row.energy(attribution), row.timing(attribution));
                let ci95 =
                    Figure { energy_j: energy.ci95_j, duration_s: timing.ci95_s.unwrap_or(f64::INFINITY) };
                add(&mut sum.figure, Figure::of(row, attribution).share(all, whole).times(*times));
                add(&mut sum.ci95, ci95.share(all, whole).times(*times));
            }
        }
        sum
    }
}

/// The modules whose cost depends on each group's format: its own, those that some strategy does at once with them, and
/// those that follow it. One format does a norm within the product behind it and another does not, so that the norm is
/// part of what is compared.
fn concerned(groups: &[Group], profiles: &[RequestProfile]) -> Vec<Vec<ModuleId>> {
    let mut concerned: Vec<Vec<ModuleId>> = groups.iter().map(|group| group.modules.clone()).collect();
    let mut take = |group: usize, module: ModuleId| {
        if !concerned.iter().any(|modules| modules.contains(&module)) {
            concerned[group].push(module);
        }
    };
    let phases = profiles.iter().flat_map(|profile| &profile.phases).map(|(phase, _)| phase);
    for class in phases.flat_map(|phase| &phase.classes) {
        for unit in class.modules.chunks(class.unit.max(1)) {
            let unit = || unit.iter().copied().map(ModuleId);
            if let Some(group) = groups.iter().position(|group| unit().any(|module| group.has(module))) {
                unit().for_each(|module| take(group, module));
            }
        }
    }
    for (index, group) in groups.iter().enumerate() {
        group.followers.iter().for_each(|module| take(index, *module));
    }
    concerned
}

/// What every strategy costs every group, from a profile per strategy, the reference's first. `size_bytes[group][strategy]`
/// is `None` where a pair could not be run: its group had the format of the reference in the strategy's profile.
///
/// `None` when the reference's own energy is unresolved.
pub fn costs(
    groups: &[Group],
    profiles: &[RequestProfile],
    size_bytes: &[Vec<Option<f64>>],
) -> Option<Costs> {
    // Figures of different attributions cannot be compared; every profile has the first-order one.
    let is_regressed = profiles.iter().all(RequestProfile::is_regressed);
    let attribution = if is_regressed { Attribution::Regression } else { Attribution::FirstOrder };
    let wholes: Vec<RequestCost> = profiles.iter().map(|profile| profile.whole(groups)).collect();
    let reference = wholes.first()?;
    reference.whole.energy_j?;
    let modules = concerned(groups, profiles);
    let classes: Vec<Class> = groups.iter().map(class).collect();
    let provenance = wholes.iter().map(|cost| cost.provenance).max()?;
    let mut pairs = Vec::with_capacity(groups.len());
    for (index, sizes) in size_bytes.iter().enumerate() {
        // Groups of equal shape cost the same: the mean of what they were found to cost.
        let equals: Vec<usize> =
            (0..groups.len()).filter(|other| classes[*other] == classes[index]).collect();
        let of = |strategy: usize| {
            let all: Vec<ModuleId> = equals.iter().flat_map(|group| modules[*group].clone()).collect();
            profiles[strategy].of_modules(&all, attribution).scaled(1.0 / equals.len() as f64)
        };
        let base = of(0);
        let base_j = base.figure.energy_j?;
        let pair = |(strategy, size): (usize, &Option<f64>)| {
            let own = of(strategy);
            let is_reference = strategy == 0;
            let is_measured = is_reference || own.figure.energy_j.is_some();
            // The cost model: a group that is bound by memory costs what its bytes cost.
            let share = size.zip(sizes[0]).map_or(1.0, |(own, reference)| own / reference);
            let energy_j = own.figure.energy_j.unwrap_or(base_j * share);
            let ci95_j = base.ci95.energy_j.zip(own.ci95.energy_j).map(|(base, own)| base.hypot(own));
            let ci95_s =
                Some(base.ci95.duration_s.hypot(own.ci95.duration_s)).filter(|ci95| ci95.is_finite());
            PairCost {
                energy_j,
                duration_s: own.figure.duration_s,
                saving_j: base_j - energy_j,
                saving_ci95_j: if is_reference { Some(0.0) } else { ci95_j.filter(|_| is_measured) },
                saving_s: base.figure.duration_s - own.figure.duration_s,
                saving_ci95_s: if is_reference { Some(0.0) } else { ci95_s },
                provenance: match is_measured {
                    true => provenance.max(Provenance::Derived),
                    false => Provenance::Estimated,
                },
                is_measured,
            }
        };
        pairs.push(sizes.iter().enumerate().map(pair).collect());
    }
    Some(Costs {
        pairs,
        reference: reference.whole,
        closures: wholes.iter().map(|cost| cost.closure(!is_regressed)).collect(),
        attribution,
        provenance,
        sensor: reference.sensor.clone(),
        systematic_relative: wholes.iter().map(|cost| cost.systematic_relative).fold(0.0, f64::max),
    })
}

impl Bounded {
    fn scaled(self, factor: f64) -> Bounded {
        Bounded { figure: self.figure.times(factor), ci95: self.ci95.times(factor) }
    }
}
