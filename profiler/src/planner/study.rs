//! A planning run, from a reference session to a verified plan.

mod foresight;
mod measure;
mod prove;

use std::sync::Arc;

use joulewise_engine::{
    Calibration, Format, ModelGraph, PrecisionPlan, Session, Strategy, WeightShape, WeightSource,
};

use super::additivity::Additivity;
use super::bound::Bound;
use super::cost::Costs;
use super::document::{Chosen, DataShape, Pareto, RequestShape, SCHEMA, Study};
use super::findings::Findings;
use super::front::{Front, Point};
use super::group::Group;
use super::journal::Journal;
use super::pace::Pace;
use super::probe::Probe;
use super::problem::{Limits, Objective, Problem};
use super::reason::Reason;
use super::request::Request;
use super::sensitivity::{Walk, plan_of};
use super::turns::{Bench, Turn};
use crate::ballast::Cache;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::experiment::Protocol;
use crate::profile::Setup;

/// What a planning run is told.
pub struct Settings<'a> {
    /// As the user named it.
    pub model: String,
    /// The strategy of the session, with which all others are compared.
    pub reference: Strategy,
    /// The strategies to choose from besides.
    pub strategies: Vec<Strategy>,
    /// What the plan is made on, and its name.
    pub probe: (&'a Probe, String),
    /// What it is verified on, and its name.
    pub holdout: (&'a Probe, String),
    /// The work it is made for.
    pub request: Request,
    /// What it must not exceed.
    pub limits: Limits,
    /// What it is to use least of.
    pub objective: Objective,
    /// Strategies that a person has pinned, by path of a module.
    pub pinned: Vec<(String, Strategy)>,
    /// Rounds of each measurement of energy, of two turns each.
    pub energy_rounds: usize,
    /// No further round begins that would end after so many seconds from the start of the run. The first of each
    /// measurement are gone through whatever the time.
    pub time_limit_s: Option<f64>,
    /// The device's caches, as far as they are known.
    pub caches: Vec<Cache>,
    /// Random plans that test whether losses and savings add up.
    pub random_plans: usize,
    /// Seed of all that is random.
    pub seed: u64,
}

impl Settings<'_> {
    /// Refuses pins and limits that no plan for the model of `session` can keep to, as far as that is known before
    /// anything is measured: [`plan`] does so, too, but a journal that is begun for it may replace another.
    ///
    /// # Errors
    /// [`ProfilerError::Protocol`] with the figures.
    pub fn check(&self, session: &Session) -> Result<()> {
        foresight::check(session, self)
    }

    /// The reference first.
    fn all_strategies(&self) -> Vec<Strategy> {
        [vec![self.reference], self.strategies.clone()].concat()
    }

    /// The strategy that a person has pinned for a group.
    fn pin_of(&self, group: &Group) -> Option<Strategy> {
        let pin = self.pinned.iter().rev().find(|(path, _)| group.paths.contains(path));
        pin.map(|(_, strategy)| *strategy)
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is going on.
    pub stage: &'a str,
    /// What was just done.
    pub what: &'a str,
    /// How much of the stage is done.
    pub done: usize,
    /// How much there is.
    pub all: usize,
}

/// Told of each step. An error ends the run; what is in the journal stays there.
pub type OnStep<'a> = &'a mut dyn FnMut(&Step<'_>) -> Result<()>;

/// Most that is run before each measurement of turns but the first: the machine is still warm.
const WARM_UP_BETWEEN_S: f64 = 0.2;

/// A run under way.
struct Run<'a> {
    settings: &'a Settings<'a>,
    source: &'a dyn WeightSource,
    setup: &'a Setup<'a>,
    is_interrupted: &'a dyn Fn() -> bool,
    graph: Arc<ModelGraph>,
    groups: Vec<Group>,
    /// The reference first.
    strategies: Vec<Strategy>,
    calibration: Arc<Calibration>,
    begin_s: f64,
}

/// Makes a plan. `session` is the model under the reference strategy.
///
/// # Errors
/// Those of the engine, the sensors, the journal and of `on_step`.
pub fn plan(
    session: &mut Session,
    source: &dyn WeightSource,
    settings: &Settings<'_>,
    setup: &Setup<'_>,
    journal: &mut Journal,
    is_interrupted: &dyn Fn() -> bool,
    on_step: OnStep<'_>,
) -> Result<(Study, Pareto, Arc<Calibration>)> {
    let (graph, begin_s) = (session.graph().clone(), setup.meter.clock().now_s());
    settings.check(session)?;
    on_step(&Step { stage: "calibration", what: "", done: 0, all: 1 })?;
    let calibration = Arc::new(calibrate(session, settings.probe.0)?);
    on_step(&Step { stage: "calibration", what: "", done: 1, all: 1 })?;
    let run = Run {
        settings,
        source,
        setup,
        is_interrupted,
        groups: Group::of_model(&graph),
        strategies: settings.all_strategies(),
        graph,
        calibration,
        begin_s,
    };
    let device = session.device().to_owned();
    // Losses first: they need no quiet machine.
    let mut verified = run.uniform_losses(session, journal, on_step)?;
    let mut walk =
        Walk::new(session, source, settings.reference, Some(run.calibration.clone()), settings.probe.0)?;
    let sensitivities =
        walk.measure(&run.groups, &settings.strategies, journal, &mut |what, done, all| {
            on_step(&Step { stage: "sensitivity", what, done, all })
        })?;
    let costs = run.costs(walk.session(), &sensitivities, journal, on_step)?;
    let mut rows = run.rows(walk.session(), &sensitivities, &costs)?;
    let (problem, trials) = run.problems(walk.session(), &mut rows, &costs)?;
    let front = Front::of(&problem, &Limits { sensitivity_nats: None, ..settings.limits });
    if front.is_empty() {
        return Err(foresight::beyond_limits(&problem, &settings.limits));
    }
    let (additive_loss, additive_energy) = run.additivity(&mut walk, &trials, &costs, journal, on_step)?;
    let slope = additive_loss.as_ref().map_or(1.0, |fit| fit.slope);
    let (best, rounds) = run.solve(&mut walk, &problem, &front, slope, journal, on_step)?;
    let strategies = run.strategies_of(&problem, &best.plan);
    run.verify(session, &strategies, &mut verified, journal, on_step)?;
    let chosen = run.chosen(&problem, &best);
    let notes = run.notes(&front, &costs, additive_loss.as_ref());
    let (loss_verdict, cost_verdict) = run.verdicts(&verified);
    let pareto = run.pareto(&front, &problem);
    let (request, data) = (&settings.request, |(probe, source): &(&Probe, String)| DataShape {
        source: source.clone(),
        texts: probe.texts(),
        items: probe.items(),
    });
    let mut study = Study {
        schema: SCHEMA.to_owned(),
        generator: concat!("joulewise ", env!("CARGO_PKG_VERSION")).to_owned(),
        model: settings.model.clone(),
        device,
        request: RequestShape {
            batch: request.prompt.batch(),
            prompt_tokens: request.prompt.tokens(),
            generated_tokens: request.generate,
        },
        strategies: run.strategies.iter().map(|strategy| strategy.name().to_owned()).collect(),
        probe: data(&settings.probe),
        holdout: data(&settings.holdout),
        limits: settings.limits,
        objective: settings.objective,
        groups: rows,
        costs,
        problem,
        additive_loss,
        additive_energy,
        rounds,
        chosen,
        verified,
        loss_verdict,
        cost_verdict,
        findings: Findings::default(),
        notes,
    };
    study.findings = Findings::of(&study);
    let calibration = run.calibration.clone();
    Ok((study, pareto, calibration))
}

/// The range of every linear's inputs over a probe.
fn calibrate(session: &mut Session, probe: &Probe) -> Result<Calibration> {
    let mut calibration = Calibration::default();
    for batch in &probe.batches {
        session.observed(&mut calibration).forward_with(&batch.tokens, probe.options)?;
    }
    Ok(calibration)
}

impl Run<'_> {
    fn plan(&self, strategies: &[Strategy]) -> PrecisionPlan {
        let changed = self.groups.iter().zip(strategies.iter().copied());
        let changed = changed.filter(|(_, strategy)| *strategy != self.settings.reference);
        plan_of(self.settings.reference, Some(&self.calibration), changed)
    }

    fn stop_if_interrupted(&self) -> Result<()> {
        match (self.is_interrupted)() {
            true => Err(ProfilerError::Protocol("interrupted while measuring energy".to_owned())),
            false => Ok(()),
        }
    }

    fn strategies_of(&self, problem: &Problem, plan: &[usize]) -> Vec<Strategy> {
        super::additivity::strategies_of(problem, &self.strategies, plan)
    }

    /// A plan in turns with the model of `reference`, each cut at modules too, for the costs of groups.
    fn turns_by_group(&self, reference: &mut Session, plan: &PrecisionPlan) -> Result<Vec<Turn>> {
        self.turns(reference, plan, &self.groups, true)
    }

    /// The same of the whole alone.
    fn turns_of_whole(&self, reference: &mut Session, plan: &PrecisionPlan) -> Result<Vec<Turn>> {
        self.turns(reference, plan, &[], false)
    }

    fn turns(
        &self,
        reference: &mut Session,
        plan: &PrecisionPlan,
        groups: &[Group],
        cut: bool,
    ) -> Result<Vec<Turn>> {
        let mut own = reference.with_plan(self.source, plan)?;
        // One trial at a time: turns are repeated instead.
        let protocol = Protocol {
            regression: false,
            cut,
            warm_up_limit_s: WARM_UP_BETWEEN_S,
            trials: 1,
            min_trials: 1,
            max_trials: 1,
            ..self.setup.protocol.clone()
        };
        let setup = Setup { protocol: &protocol, work: self.setup.work.clone(), ..*self.setup };
        let (request, is_interrupted) = (&self.settings.request, self.is_interrupted);
        Bench { request, groups, setup: &setup, is_interrupted }.turns(
            reference,
            &mut own,
            self.setup.protocol.warm_up_limit_s,
        )
    }

    /// Rounds of a measurement that may use a share of the time that is left.
    fn pace(&self, least: usize, most: usize, share: f64) -> Pace<'_> {
        let clock = self.setup.meter.clock();
        let now_s = clock.now_s();
        let left_s = self.settings.time_limit_s.map(|limit_s| (self.begin_s + limit_s - now_s).max(0.0));
        Pace::new(clock, least, most, left_s.map(|left_s| now_s + share * left_s))
    }

    fn chosen(&self, problem: &Problem, best: &Point) -> Chosen {
        let safest: Vec<usize> = problem.groups.iter().map(|_| 0).collect();
        Chosen {
            strategies: self.names(&self.strategies_of(problem, &best.plan)),
            pinned: self.groups.iter().map(|group| self.settings.pin_of(group).is_some()).collect(),
            predicted: best.totals,
            reference: problem.totals(&safest),
            bound: Bound::of(problem, best.totals.sensitivity_nats),
            reasons: Reason::of_plan(problem, &best.plan),
        }
    }

    fn names(&self, strategies: &[Strategy]) -> Vec<String> {
        strategies.iter().map(|strategy| strategy.name().to_owned()).collect()
    }

    fn pareto(&self, front: &Front, problem: &Problem) -> Pareto {
        let most = front.len().min(Pareto::MOST);
        let place = |index: usize| if most < 2 { index } else { index * (front.len() - 1) / (most - 1) };
        let points = (0..most).map(|index| {
            let mut point = front.point(place(index));
            for (choice, choices) in point.plan.iter_mut().zip(&problem.groups) {
                *choice = choices[*choice].strategy;
            }
            point
        });
        Pareto {
            groups: self.groups.iter().map(|group| group.name.clone()).collect(),
            strategies: self.names(&self.strategies),
            is_exact: front.is_exact,
            plans: front.len(),
            points: points.collect(),
        }
    }

    fn notes(&self, front: &Front, costs: &Costs, additive: Option<&Additivity>) -> Vec<String> {
        let mut notes = Vec::new();
        if costs.provenance == Provenance::Estimated {
            notes.push(format!(
                "no sensor measures this device: joules are estimated from processor time ({}), within ± 50 % that all figures share; differences between formats are differences in time",
                costs.sensor
            ));
        }
        let estimated = costs.pairs.iter().flatten().filter(|pair| !pair.is_measured).count();
        if estimated > 0 {
            notes.push(format!("{estimated} pairs of group and strategy were not measured: their energy is estimated from their bytes"));
        }
        if !front.is_exact {
            notes.push(
                "the front was thinned while searching: the gap to the bound says what that can have cost"
                    .to_owned(),
            );
        }
        if let Some(fit) = additive.filter(|fit| !fit.holds()) {
            notes.push(format!(
                "losses do not simply add up here (slope {:.2}, R² {:.2}): the plan was corrected by running it, and a safer format floor would make predictions better",
                fit.slope, fit.r_squared
            ));
        }
        notes
    }
}

/// Bytes of a group's weights.
fn size_bytes(graph: &ModelGraph, group: &Group, strategy: Strategy) -> f64 {
    let format = strategy.precision().weight;
    group.weights.iter().map(|weight| encoded_bytes(graph.weight(*weight).shape, format)).sum()
}

/// Bytes of a weight in a format; vectors stay in f32.
fn encoded_bytes(shape: WeightShape, format: Format) -> f64 {
    match shape {
        WeightShape::Matrix { n, k } => format.spec().encoded_bytes(n, k) as f64,
        WeightShape::Vector { n } => (n * size_of::<f32>()) as f64,
    }
}
