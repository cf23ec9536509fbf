//! Whether the plan does what it promises: random plans, solving against what came out, held-out data.

use joulewise_engine::{PrecisionPlan, Session, Strategy};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::{OnStep, Run};
use crate::error::{ProfilerError, Result};
use crate::planner::additivity::{Additivity, Trial, random_plans};
use crate::planner::cost::RequestCost;
use crate::planner::document::SolveRound;
use crate::planner::front::{Front, Point};
use crate::planner::journal::Journal;
use crate::planner::problem::Problem;
use crate::planner::sensitivity::Walk;
use crate::planner::verify::{Verdict, Verified};

/// Attempts at a plan that keeps to the limit when it is run.
const SOLVE_ROUNDS: usize = 5;

impl Run<'_> {
    /// Random plans, run: losses on the probe, energies in rounds.
    pub(super) fn additivity(
        &self,
        walk: &mut Walk<'_>,
        problem: &Problem,
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<(Option<Additivity>, Option<Additivity>)> {
        let plans = random_plans(problem, self.settings.random_plans, self.settings.seed);
        let n_rounds = self.settings.energy_rounds.min(3);
        let all = plans.len() * (1 + n_rounds);
        let what = "do losses and savings add up?";
        let strategies: Vec<Vec<Strategy>> =
            plans.iter().map(|plan| self.strategies_of(problem, plan)).collect();
        let totals: Vec<_> = plans.iter().map(|plan| problem.totals(plan)).collect();
        let mut losses = Vec::with_capacity(plans.len());
        for (index, strategies) in strategies.iter().enumerate() {
            let plan = self.plan(strategies);
            let divergence =
                journal.once(&format!("random plan {index} loss"), || walk.divergence_of(&plan))?;
            let predicted = totals[index].sensitivity_nats;
            losses.push(Trial { predicted, measured: divergence.kl_nats.mean });
            on_step(what, index + 1, all)?;
        }
        let mut measured = vec![Vec::new(); plans.len()];
        for round in 0..n_rounds {
            for (index, strategies) in strategies.iter().enumerate() {
                let key = format!("random plan {index} energy {round}");
                let plan = self.plan(strategies);
                let cost: RequestCost = journal.once(&key, || self.cost(walk.session(), &plan))?;
                measured[index].extend(cost.whole.energy_j);
                on_step(what, plans.len() * (1 + round) + index + 1, all)?;
            }
        }
        let resolved = measured.iter().zip(&totals).filter(|(energies, _)| !energies.is_empty());
        let energies: Vec<Trial> = resolved
            .map(|(energies, totals)| Trial {
                predicted: totals.energy_j,
                measured: energies.iter().sum::<f64>() / energies.len() as f64,
            })
            .collect();
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
            on_step("solve and run", round + 1, SOLVE_ROUNDS)?;
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
                energy_j: point.totals.energy_j,
                is_accepted,
            });
            let is_better = best.as_ref().is_none_or(|best| point.totals.energy_j < best.totals.energy_j);
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

    /// The reference, every uniform strategy and the plan on held-out data, the plan last.
    pub(super) fn verify(
        &self,
        session: &mut Session,
        strategies: &[Strategy],
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Verified>> {
        let what = "verify on held-out data";
        let mut candidates: Vec<(String, PrecisionPlan)> = self
            .strategies
            .iter()
            .map(|strategy| {
                let calibration = Some(self.calibration.clone());
                (strategy.name().to_owned(), PrecisionPlan { calibration, ..(*strategy).into() })
            })
            .collect();
        candidates.push(("plan".to_owned(), self.plan(strategies)));
        let tag: Vec<&str> = strategies.iter().map(|strategy| strategy.name()).collect();
        let key = |name: &str, what: &str| match name {
            // Another plan must not find the results of this one.
            "plan" => format!("verify plan [{}] {what}", tag.join(",")),
            name => format!("verify {name} {what}"),
        };
        let n_rounds = self.settings.energy_rounds;
        let all = candidates.len() * (1 + n_rounds);
        let mut verified = Vec::with_capacity(candidates.len());
        let mut measured = vec![Vec::new(); candidates.len()];
        // What cannot run here is left out, whatever the reason was.
        let mut can_run = Vec::with_capacity(candidates.len());
        {
            let (reference, calibration) = (self.settings.reference, Some(self.calibration.clone()));
            let holdout = self.settings.holdout.0;
            let mut walk = Walk::new(session, self.source, reference, calibration, holdout)?;
            for (index, (name, plan)) in candidates.iter().enumerate() {
                let divergence = journal.once(&key(name, "loss"), || {
                    Ok(match walk.divergence_of(plan) {
                        Ok(divergence) if divergence.is_finite => Some(divergence),
                        Err(error) if name == "plan" => return Err(error),
                        _ => None,
                    })
                })?;
                can_run.push(divergence);
                on_step(what, index + 1, all)?;
            }
        }
        for round in 0..n_rounds {
            let mut order: Vec<usize> = (0..candidates.len()).collect();
            order.shuffle(&mut Pcg64::seed_from_u64(self.settings.seed.wrapping_add(1000 + round as u64)));
            for (done, index) in order.into_iter().enumerate() {
                let (name, plan) = &candidates[index];
                if can_run[index].is_some() {
                    let cost: RequestCost =
                        journal.once(&key(name, &format!("energy {round}")), || self.cost(session, plan))?;
                    measured[index].push(cost.whole);
                }
                on_step(what, candidates.len() * (1 + round) + done + 1, all)?;
            }
        }
        for (((name, plan), divergence), figures) in candidates.iter().zip(can_run).zip(&measured) {
            let Some(divergence) = divergence else { continue };
            verified.push(Verified {
                name: name.clone(),
                divergence,
                energies_j: figures.iter().filter_map(|figure| figure.energy_j).collect(),
                durations_s: figures.iter().map(|figure| figure.duration_s).collect(),
                weight_bytes: self.weight_bytes(plan),
            });
        }
        Ok(verified)
    }

    /// Bytes of a model's weights under a plan.
    fn weight_bytes(&self, plan: &PrecisionPlan) -> f64 {
        let formats = plan.weight_formats(&self.graph);
        let weights = self.graph.weights.iter().zip(formats.iter());
        let bytes = weights.map(|(weight, format)| super::encoded_bytes(weight.shape, *format));
        bytes.sum()
    }

    /// Loss within its limit, and less energy than the reference; both on held-out data.
    pub(super) fn verdicts(&self, verified: &[Verified]) -> (Verdict, Verdict) {
        let (Some(reference), Some(plan)) = (verified.first(), verified.last()) else {
            return (Verdict::Inconclusive, Verdict::Inconclusive);
        };
        let limit = self.settings.limits.sensitivity_nats.unwrap_or(f64::INFINITY);
        let loss = Verdict::of(plan.divergence.kl_nats.interval(), limit);
        let energy = plan.saving_over(reference).map_or(Verdict::Inconclusive, |saving| saving.verdict());
        (loss, energy)
    }
}
