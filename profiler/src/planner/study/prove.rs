//! Whether the plan does what it promises: random plans, solving against what came out, held-out data.

use joulewise_engine::{PrecisionPlan, Session, Strategy};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::{OnStep, Run, Step};
use crate::error::{ProfilerError, Result};
use crate::planner::additivity::{Additivity, Trial, random_plans};
use crate::planner::cost::Costs;
use crate::planner::document::SolveRound;
use crate::planner::front::{Front, Point};
use crate::planner::journal::Journal;
use crate::planner::problem::Problem;
use crate::planner::request::RequestCost;
use crate::planner::sensitivity::Walk;
use crate::planner::turns::{Turn, relative_to_reference};
use crate::planner::verify::{Verdict, Verified};

/// Attempts at a plan that keeps to the limit when it is run.
const SOLVE_ROUNDS: usize = 5;
/// Rounds of turns of each random plan.
const PLAN_ROUNDS: usize = 3;
/// Share of the time that is left for them; the rest is for verifying the plan.
const PLANS_SHARE: f64 = 0.9;

impl Run<'_> {
    /// Random plans, run: losses on the probe, energies in turns with the reference.
    pub(super) fn additivity(
        &self,
        walk: &mut Walk<'_>,
        problem: &Problem,
        costs: &Costs,
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<(Option<Additivity>, Option<Additivity>)> {
        let plans = random_plans(problem, self.settings.random_plans, self.settings.seed);
        let n_rounds = self.settings.energy_rounds.min(PLAN_ROUNDS);
        let all = plans.len() * (1 + n_rounds);
        let stage = "do losses and savings add up?";
        let strategies: Vec<Vec<Strategy>> =
            plans.iter().map(|plan| self.strategies_of(problem, plan)).collect();
        let totals: Vec<_> = plans.iter().map(|plan| problem.totals(plan)).collect();
        // Another run may find other plans: more rounds may tell more savings from the noise.
        let tags: Vec<String> = strategies.iter().map(|of| self.names(of).join(",")).collect();
        let mut losses = Vec::with_capacity(plans.len());
        for (index, strategies) in strategies.iter().enumerate() {
            let plan = self.plan(strategies);
            let key = format!("random plan [{}] loss", tags[index]);
            let divergence = journal.once(&key, || walk.divergence_of(&plan))?;
            let predicted = totals[index].sensitivity_nats;
            let kl = divergence.kl_nats;
            losses.push(Trial { predicted, measured: kl.mean, measured_ci95: kl.ci95 });
            on_step(&Step { stage, what: "loss of a random plan", done: index + 1, all })?;
        }
        let mut measured: Vec<Vec<Turn>> = vec![Vec::new(); plans.len()];
        let (mut done, mut round) = (plans.len(), 0);
        let mut pace = self.pace(1, n_rounds, PLANS_SHARE);
        while pace.goes_on(round) {
            let mut order: Vec<usize> = (0..plans.len()).collect();
            order.shuffle(&mut Pcg64::seed_from_u64(self.settings.seed.wrapping_add(2000 + round as u64)));
            for index in order {
                let key = format!("random plan {index} turns {round} [{}]", tags[index]);
                let plan = self.plan(&strategies[index]);
                let turns: Vec<Turn> = journal.once(&key, || self.turns_of_whole(walk.session(), &plan))?;
                measured[index].extend(turns);
                done += 1;
                on_step(&Step { stage, what: "energy of a random plan", done, all })?;
            }
            round += 1;
        }
        let reference_j = costs.reference.energy_j.unwrap_or(0.0);
        let resolved = measured.iter().zip(&totals).filter_map(|(turns, totals)| {
            let relative = relative_to_reference(turns, |cost| cost.whole.energy_j);
            (relative.n > 0).then(|| Trial {
                predicted: totals.energy_j,
                measured: reference_j * relative.value,
                measured_ci95: relative.half_width().map(|half_width| reference_j * half_width),
            })
        });
        let energies: Vec<Trial> = resolved.collect();
        Ok((Additivity::of(&losses), Additivity::of(&energies)))
    }

    /// Solves, runs the plan, corrects the budget by what came out, and solves again.
    pub(super) fn solve(
        &self,
        walk: &mut Walk<'_>,
        problem: &Problem,
        front: &Front,
        slope: f64,
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<(Point, Vec<SolveRound>)> {
        let limit = self.settings.limits.sensitivity_nats.unwrap_or(f64::INFINITY);
        let mut budget_nats = if slope > 0.0 { limit / slope } else { limit };
        let mut rounds: Vec<SolveRound> = Vec::new();
        let mut best: Option<Point> = None;
        for round in 0..SOLVE_ROUNDS {
            on_step(&Step { stage: "solve and run", what: "", done: round + 1, all: SOLVE_ROUNDS })?;
            let Some(point) = front.best_within(budget_nats) else { break };
            if rounds.iter().any(|round| round.predicted_nats == point.totals.sensitivity_nats) {
                break;
            }
            let names: Vec<String> = point.plan.iter().map(usize::to_string).collect();
            let key = format!("plan {} loss", names.join(","));
            let strategies = self.strategies_of(problem, &point.plan);
            let plan = self.plan(&strategies);
            let divergence = journal.once(&key, || walk.divergence_of(&plan))?;
            let measured_nats = divergence.kl_nats.cautious();
            let is_accepted = divergence.is_finite && measured_nats <= limit;
            rounds.push(SolveRound {
                budget_nats,
                predicted_nats: point.totals.sensitivity_nats,
                measured_nats,
                cost: problem.objective.of(&point.totals),
                is_accepted,
            });
            let cost = |point: &Point| problem.objective.of(&point.totals);
            let is_better = best.as_ref().is_none_or(|best| cost(&point) < cost(best));
            if is_accepted && is_better {
                best = Some(point.clone());
            }
            // The next budget is what would have come out at the limit if losses were proportional.
            budget_nats = point.totals.sensitivity_nats * limit / measured_nats.max(f64::MIN_POSITIVE);
            if !budget_nats.is_finite() {
                break;
            }
        }
        // The safest plan there is: where nothing else was accepted, the reference or the pinned rows.
        let safest = || (!front.is_empty()).then(|| front.point(0));
        let best = best.or_else(safest).ok_or_else(|| {
            ProfilerError::Protocol("no plan keeps to the limits on bytes and time".to_owned())
        })?;
        Ok((best, rounds))
    }

    /// The reference and every uniform strategy that can run here, on held-out data.
    pub(super) fn uniform_losses(
        &self,
        session: &mut Session,
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Verified>> {
        let mut walk = self.holdout(session)?;
        let mut verified = Vec::new();
        let all = self.strategies.len();
        for (index, strategy) in self.strategies.iter().enumerate() {
            let plan = self.uniform(*strategy);
            let divergence = journal.once(&format!("verify {strategy} loss"), || {
                // What cannot run here is left out, whatever the reason is.
                Ok(walk.divergence_of(&plan).ok().filter(|divergence| divergence.is_finite))
            })?;
            if let Some(divergence) = divergence {
                verified.push(Verified::new(strategy.name(), divergence, self.weight_bytes(&plan)));
            }
            let stage = "uniform formats on held-out data";
            on_step(&Step { stage, what: strategy.name(), done: index + 1, all })?;
        }
        Ok(verified)
    }

    /// The plan on held-out data, and in turns with each of `verified`; the plan is appended.
    pub(super) fn verify(
        &self,
        session: &mut Session,
        strategies: &[Strategy],
        verified: &mut Vec<Verified>,
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<()> {
        let stage = "verify the plan";
        let plan = self.plan(strategies);
        // Another plan must not find the results of this one.
        let tag = self.names(strategies).join(",");
        let n_rounds = self.settings.energy_rounds;
        let all = 1 + verified.len() * n_rounds;
        let loss = journal
            .once(&format!("verify plan [{tag}] loss"), || self.holdout(session)?.divergence_of(&plan))?;
        on_step(&Step { stage, what: "loss on held-out data", done: 1, all })?;
        let mut own = session.with_plan(self.source, &plan)?;
        let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); verified.len()];
        let mut done = 1;
        let (mut round, mut pace) = (0, self.pace(1, n_rounds, 1.0));
        while pace.goes_on(round) {
            let mut order: Vec<usize> = (0..verified.len()).collect();
            order.shuffle(&mut Pcg64::seed_from_u64(self.settings.seed.wrapping_add(1000 + round as u64)));
            for index in order {
                let name = &verified[index].name;
                let key = format!("verify {name} turns {round} with plan [{tag}]");
                let uniform = self.uniform(name.parse()?);
                let measured: Vec<Turn> = journal.once(&key, || self.turns_of_whole(&mut own, &uniform))?;
                turns[index].extend(measured);
                done += 1;
                on_step(&Step { stage, what: name, done, all })?;
            }
            round += 1;
        }
        let of = |costs: &mut dyn Iterator<Item = &RequestCost>| -> (Vec<f64>, Vec<f64>) {
            costs.filter_map(|cost| Some((cost.whole.energy_j?, cost.whole.duration_s))).unzip()
        };
        let mut itself = Verified::new(Verified::PLAN, loss, self.weight_bytes(&plan));
        for (model, turns) in verified.iter_mut().zip(&turns) {
            let resolved = || {
                let is_resolved = |turn: &&Turn| {
                    turn.own.whole.energy_j.is_some() && turn.reference.whole.energy_j.is_some()
                };
                turns.iter().filter(is_resolved)
            };
            (model.energies_j, model.durations_s) = of(&mut resolved().map(|turn| &turn.own));
            (model.plan_energies_j, model.plan_durations_s) = of(&mut resolved().map(|turn| &turn.reference));
            itself.energies_j.extend(&model.plan_energies_j);
            itself.durations_s.extend(&model.plan_durations_s);
        }
        verified.push(itself);
        Ok(())
    }

    fn holdout<'a>(&'a self, session: &'a mut Session) -> Result<Walk<'a>> {
        let (reference, calibration) = (self.settings.reference, Some(self.calibration.clone()));
        Walk::new(session, self.source, reference, calibration, self.settings.holdout.0)
    }

    fn uniform(&self, strategy: Strategy) -> PrecisionPlan {
        PrecisionPlan { calibration: Some(self.calibration.clone()), ..strategy.into() }
    }

    /// Bytes of a model's weights under a plan.
    fn weight_bytes(&self, plan: &PrecisionPlan) -> f64 {
        let formats = plan.weight_formats(&self.graph);
        let weights = self.graph.weights.iter().zip(formats.iter());
        let bytes = weights.map(|(weight, format)| super::encoded_bytes(weight.shape, *format));
        bytes.sum()
    }

    /// Loss within its limit on held-out data, and lower cost than the reference.
    pub(super) fn verdicts(&self, verified: &[Verified]) -> (Verdict, Verdict) {
        let (Some(reference), Some(plan)) = (verified.first(), verified.last()) else {
            return (Verdict::Inconclusive, Verdict::Inconclusive);
        };
        let limit = self.settings.limits.sensitivity_nats.unwrap_or(f64::INFINITY);
        let loss = Verdict::of(plan.divergence.kl_nats.interval(), limit);
        let saving = reference.saving_of(plan, self.settings.objective);
        (loss, saving.map_or(Verdict::Inconclusive, |saving| saving.verdict()))
    }
}
