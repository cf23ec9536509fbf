//! What there is to choose from: costs and sensitivities become rows, rows become the planner's problem.

use joulewise_engine::{Session, Strategy};
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
use crate::planner::sensitivity::{GroupSensitivity, Outcome};
use crate::planner::turns::Turn;

impl Run<'_> {
    /// Every strategy everywhere, as far as it can be: the costs of all pairs.
    pub(super) fn costs(
        &self,
        session: &mut Session,
        sensitivities: &[GroupSensitivity],
        journal: &mut Journal,
        on_step: OnStep<'_>,
    ) -> Result<Costs> {
        let n_rounds = self.settings.energy_rounds;
        // The reference has no turns of its own: it is part of all others.
        let all = n_rounds * (self.strategies.len() - 1);
        let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); self.strategies.len()];
        let mut done = 0;
        for round in 0..n_rounds {
            let mut order: Vec<usize> = (1..self.strategies.len()).collect();
            order.shuffle(&mut Pcg64::seed_from_u64(self.settings.seed.wrapping_add(round as u64)));
            for index in order {
                let strategy = self.strategies[index];
                let everywhere: Vec<Strategy> = sensitivities
                    .iter()
                    .map(|row| match &row.outcomes[index - 1] {
                        Outcome::Measured(_) => strategy,
                        Outcome::Infeasible { .. } => self.settings.reference,
                    })
                    .collect();
                let key = format!("turns {round} {strategy}");
                let plan = self.plan(&everywhere);
                let measured: Vec<Turn> = journal.once(&key, || self.turns(session, &plan))?;
                turns[index].extend(measured);
                done += 1;
                on_step(&Step { stage: "energy per format", what: strategy.name(), done, all })?;
            }
        }
        let size = |outcome: &Outcome| match outcome {
            Outcome::Measured(effect) => Some(effect.size_bytes),
            Outcome::Infeasible { .. } => None,
        };
        let sizes: Vec<Vec<Option<f64>>> = self
            .groups
            .iter()
            .zip(sensitivities)
            .map(|(group, row)| {
                let reference = Some(self.size_bytes(group, self.settings.reference));
                [reference].into_iter().chain(row.outcomes.iter().map(size)).collect()
            })
            .collect();
        Costs::of_turns(&self.graph, &self.groups, &turns, &sizes).ok_or_else(|| {
            let message =
                "no sensor resolved the energy of the reference: give requests more work (--tokens, --batch)";
            ProfilerError::Protocol(message.to_owned())
        })
    }

    /// Bytes of a group's weights.
    pub(super) fn size_bytes(&self, group: &Group, strategy: Strategy) -> f64 {
        let format = strategy.precision().weight;
        let bytes = |weight| super::encoded_bytes(self.graph.weight(weight).shape, format);
        group.weights.iter().map(|weight| bytes(*weight)).sum()
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
    /// have a limit that it may be wanted for.
    pub(super) fn problem(&self, session: &Session, rows: &mut [GroupRow], costs: &Costs) -> Result<Problem> {
        let limits = &self.settings.limits;
        let objective = self.settings.objective;
        let is_cost_all = limits.size_bytes.is_none() && limits.duration_s.is_none();
        let mut problem = Problem { objective, ..Problem::default() };
        for ((group, row), costs) in self.groups.iter().zip(rows.iter_mut()).zip(&costs.pairs) {
            let pinned = self.pinned(group);
            let mut choices = Vec::new();
            for (index, pair) in row.pairs.iter_mut().enumerate() {
                let (strategy, Some(cost)) = (self.strategies[index], pair.cost) else { continue };
                let is_pinned = pinned == Some(strategy);
                if pinned.is_some() && !is_pinned {
                    pair.excluded = Some("another strategy is pinned".to_owned());
                    continue;
                }
                if index > 0 && is_cost_all && !is_pinned && !saves(&cost, objective) {
                    pair.excluded = Some(format!("saves no {} beyond the noise", objective.name()));
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
            problem.groups.push(choices);
        }
        // What no group accounts for is the whole less its groups, whatever the groups add up to.
        problem.fixed.energy_j += costs.reference.energy_j.unwrap_or(0.0);
        problem.fixed.duration_s += costs.reference.duration_s;
        problem.fixed.size_bytes += session.weight_bytes() as f64;
        Ok(problem)
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
