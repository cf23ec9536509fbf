//! What there is to choose from: costs and sensitivities become rows, rows become the planner's problem.

use joulewise_engine::{PrecisionPlan, Session, Strategy};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::{OnStep, Run, Step};
use crate::error::{ProfilerError, Result};
use crate::planner::cost::{Costs, PairCost};
use crate::planner::document::{GroupRow, PairRow};
use crate::planner::group::Group;
use crate::planner::journal::Journal;
use crate::planner::problem::{Choice, Objective, Problem, Totals};
use crate::planner::regressed::{self, Regressed, RequestProfile};
use crate::planner::sensitivity::{GroupSensitivity, Outcome};
use crate::planner::turns::Turn;

/// Share of the time that is left for the costs of all pairs; the rest is for proving the plan.
const COSTS_SHARE: f64 = 0.45;
const ENERGY_STAGE: &str = "energy per format";

impl Run<'_> {
    /// Every strategy everywhere, as far as it can be: the costs of all pairs.
    pub(super) fn costs(
        &self,
        session: &mut Session,
        sensitivities: &[GroupSensitivity],
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Costs> {
        let size = |outcome: &Outcome| match outcome {
            Outcome::Measured(effect) => Some(effect.size_bytes),
            Outcome::Infeasible { .. } => None,
        };
        let rows = self.groups.iter().zip(sensitivities);
        let sizes: Vec<Vec<Option<f64>>> = rows
            .map(|(group, row)| {
                let reference = Some(self.size_bytes(group, self.settings.reference));
                [reference].into_iter().chain(row.outcomes.iter().map(size)).collect()
            })
            .collect();
        let costs = if self.setup.protocol.regression {
            let profiles = self.profiles(session, sensitivities, journal, on_step)?;
            regressed::costs(&self.groups, &profiles, &sizes)
        } else {
            let turns = self.turns_of_all(session, sensitivities, journal, on_step)?;
            Costs::of_turns(&self.groups, &turns, &sizes)
        };
        costs.ok_or_else(|| {
            let message =
                "no sensor resolved the energy of the reference: give requests more work (--tokens, --batch)";
            ProfilerError::Protocol(message.to_owned())
        })
    }

    /// Turns of each strategy with the reference; the reference has none of its own: it is part of all others.
    fn turns_of_all(
        &self,
        session: &mut Session,
        sensitivities: &[GroupSensitivity],
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Vec<Turn>>> {
        let n_rounds = self.settings.energy_rounds;
        let all = n_rounds * (self.strategies.len() - 1);
        let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); self.strategies.len()];
        let (mut done, mut round, mut pace) = (0, 0, self.pace(1, n_rounds, COSTS_SHARE));
        while pace.goes_on(round) {
            for index in self.shuffled(1, round) {
                let strategy = self.strategies[index];
                let plan = self.everywhere(index, sensitivities);
                let key = format!("turns {round} {strategy}");
                let measured: Vec<Turn> = journal.once(&key, || self.turns_by_group(session, &plan))?;
                turns[index].extend(measured);
                done += 1;
                on_step(&Step { stage: ENERGY_STAGE, what: strategy.name(), done, all })?;
            }
            round += 1;
        }
        Ok(turns)
    }

    /// A profile of each strategy, round by round in turns.
    fn profiles(
        &self,
        session: &mut Session,
        sensitivities: &[GroupSensitivity],
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Vec<RequestProfile>> {
        let bench = Regressed {
            request: &self.settings.request,
            setup: self.setup,
            caches: &self.settings.caches,
            is_interrupted: self.is_interrupted,
        };
        let n_rounds = self.settings.energy_rounds.max(regressed::LEAST_ROUNDS);
        let all = n_rounds * self.strategies.len();
        let mut profiles: Vec<Option<RequestProfile>> = vec![None; self.strategies.len()];
        let (mut done, mut round) = (0, 0);
        let mut pace = self.pace(regressed::LEAST_ROUNDS, n_rounds, COSTS_SHARE);
        while pace.goes_on(round) {
            for index in self.shuffled(0, round) {
                let strategy = self.strategies[index];
                let plan = self.everywhere(index, sensitivities);
                let earlier = profiles[index].as_ref();
                let profile = journal.once(&format!("profile {round} {strategy}"), || {
                    let mut own = session.with_plan(self.source, &plan)?;
                    let profile = bench.one_more(&mut own, earlier, round)?;
                    self.stop_if_interrupted()?;
                    Ok(profile)
                })?;
                profiles[index] = Some(profile);
                done += 1;
                on_step(&Step { stage: ENERGY_STAGE, what: strategy.name(), done, all })?;
            }
            round += 1;
        }
        Ok(profiles.into_iter().flatten().collect())
    }

    /// The strategies from number `first` on, in the order of a round.
    fn shuffled(&self, first: usize, round: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (first..self.strategies.len()).collect();
        order.shuffle(&mut Pcg64::seed_from_u64(self.settings.seed.wrapping_add(round as u64)));
        order
    }

    /// A strategy in all groups that can have it.
    fn everywhere(&self, index: usize, sensitivities: &[GroupSensitivity]) -> PrecisionPlan {
        let of = |row: &GroupSensitivity| match index.checked_sub(1).map(|place| &row.outcomes[place]) {
            Some(Outcome::Measured(_)) => self.strategies[index],
            Some(Outcome::Infeasible { .. }) | None => self.settings.reference,
        };
        self.plan(&sensitivities.iter().map(of).collect::<Vec<Strategy>>())
    }

    /// Bytes of a group's weights.
    pub(super) fn size_bytes(&self, group: &Group, strategy: Strategy) -> f64 {
        super::size_bytes(&self.graph, group, strategy)
    }

    pub(super) fn rows(
        &self,
        session: &mut Session,
        sensitivities: &[GroupSensitivity],
        costs: &Costs,
    ) -> Result<Vec<GroupRow>> {
        // Work is counted on one pass over the prompt, and over one token for each that is generated.
        let request = &self.settings.request;
        session.forward(&request.prompt)?;
        let mut passes = vec![(session.last_program().cloned(), 0, 1.0)];
        if request.generate > 0 && session.graph().cache.is_some() {
            session.prefill(&request.prompt)?;
            let last: Vec<u32> = request.prompt.ids().iter().copied().take(request.prompt.batch()).collect();
            session.decode(&last)?;
            passes.push((session.last_program().cloned(), request.prompt.tokens(), request.generate as f64));
        }
        let work = |group: &Group| {
            let (mut flops, mut bytes) = (0.0, 0.0);
            for (program, kv_start, times) in &passes {
                let Some(program) = program else { continue };
                for steps in group.modules.iter().filter_map(|module| program.module_steps(*module)) {
                    let cost = program.cost(steps, *kv_start);
                    flops += times * cost.flops;
                    bytes += times * (cost.bytes_read + cost.bytes_written);
                }
            }
            (flops, bytes)
        };
        let rows = self.groups.iter().zip(sensitivities).enumerate().map(|(index, (group, row))| {
            let (flops, bytes) = work(group);
            let reference = PairRow { outcome: None, cost: Some(costs.pairs[index][0]), excluded: None };
            let pairs =
                row.outcomes.iter().zip(&costs.pairs[index][1..]).map(|(outcome, cost)| match outcome {
                    Outcome::Measured(_) => {
                        PairRow { outcome: Some(outcome.clone()), cost: Some(*cost), excluded: None }
                    }
                    Outcome::Infeasible { cause } => {
                        PairRow { outcome: Some(outcome.clone()), cost: None, excluded: Some(cause.clone()) }
                    }
                });
            GroupRow {
                name: group.name.clone(),
                kind: group.kind_name(),
                block: group.block,
                paths: group.paths.clone(),
                parameters: group.parameters,
                flops,
                bytes,
                impact: row.impact.clone(),
                pairs: [reference].into_iter().chain(pairs).collect(),
            }
        });
        Ok(rows.collect())
    }

    /// What the planner may choose from. A strategy whose saving is within the noise is no choice, unless bytes or time
    /// have a limit that it may be wanted for. The second problem is that of the random plans: where no strategy is a
    /// choice beside the reference, all are, since whether costs add up has nothing to do with what they come to.
    pub(super) fn problems(
        &self,
        session: &Session,
        rows: &mut [GroupRow],
        costs: &Costs,
    ) -> Result<(Problem, Problem)> {
        let limits = &self.settings.limits;
        let objective = self.settings.objective;
        let is_cost_all = limits.size_bytes.is_none() && limits.duration_s.is_none();
        let mut problem = Problem { objective, ..Problem::default() };
        let mut of_trials = Vec::with_capacity(self.groups.len());
        for ((group, row), costs) in self.groups.iter().zip(rows.iter_mut()).zip(&costs.pairs) {
            let pinned = self.settings.pin_of(group);
            let (mut choices, mut all) = (Vec::new(), Vec::new());
            for (index, pair) in row.pairs.iter_mut().enumerate() {
                let (strategy, Some(cost)) = (self.strategies[index], pair.cost) else { continue };
                let is_pinned = pinned == Some(strategy);
                if pinned.is_some() && !is_pinned {
                    pair.excluded = Some("another strategy is pinned".to_owned());
                    continue;
                }
                let sensitivity_nats = match &pair.outcome {
                    Some(Outcome::Measured(effect)) => effect.divergence.kl_nats.cautious(),
                    _ => 0.0,
                };
                let totals = Totals {
                    sensitivity_nats,
                    energy_j: cost.energy_j,
                    size_bytes: self.size_bytes(group, strategy),
                    duration_s: cost.duration_s,
                };
                all.push(Choice { strategy: index, totals });
                if index > 0 && is_cost_all && !is_pinned && !saves(&cost, objective) {
                    pair.excluded = Some(format!("saves no {} beyond the noise", objective.name()));
                    continue;
                }
                choices.push(Choice { strategy: index, totals });
            }
            if choices.is_empty() {
                let message = format!("{}: its pinned strategy cannot be run here", group.name);
                return Err(ProfilerError::Protocol(message));
            }
            let reference = &costs[0];
            problem.fixed.energy_j -= reference.energy_j;
            problem.fixed.duration_s -= reference.duration_s;
            problem.fixed.size_bytes -= self.size_bytes(group, self.settings.reference);
            of_trials.push(if choices.len() > 1 { choices.clone() } else { all });
            problem.groups.push(choices);
        }
        // What no group accounts for is the whole less its groups, whatever the groups add up to.
        problem.fixed.energy_j += costs.reference.energy_j.unwrap_or(0.0);
        problem.fixed.duration_s += costs.reference.duration_s;
        problem.fixed.size_bytes += session.weight_bytes() as f64;
        let trials = Problem { groups: of_trials, ..problem.clone() };
        Ok((problem, trials))
    }
}

/// Whether a saving is more than its own error; bytes have none.
fn saves(cost: &PairCost, objective: Objective) -> bool {
    let beyond = |saving: f64, ci95: Option<f64>| ci95.is_some_and(|ci95| saving > ci95);
    match objective {
        Objective::Energy => beyond(cost.saving_j, cost.saving_ci95_j),
        Objective::Time => beyond(cost.saving_s, cost.saving_ci95_s),
        Objective::Bytes => true,
    }
}
