//! Why a group got what it got: what the next cheaper and the next safer choice would change.

use serde::{Deserialize, Serialize};

use super::problem::{Choice, Objective, Problem};

/// Another choice, by what it would change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Index of the strategy in the planner's list.
    pub strategy: usize,
    /// Cost, more or (negative) less, in the unit of the problem's objective.
    pub cost_change: f64,
    /// Sensitivity, more or (negative) less.
    pub sensitivity_change_nats: f64,
}

impl Alternative {
    /// Cost per nat of the exchange.
    pub fn rate_per_nat(&self) -> f64 {
        (self.cost_change / self.sensitivity_change_nats).abs()
    }
}

/// The neighbours of a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The choice that saves most per nat it adds; `None` when nothing costs less.
    pub cheaper: Option<Alternative>,
    /// The choice that costs least per nat it takes away; `None` when nothing is safer.
    pub safer: Option<Alternative>,
}

impl Reason {
    /// The neighbours of each group's choice in a plan.
    pub fn of_plan(problem: &Problem, plan: &[usize]) -> Vec<Reason> {
        problem
            .groups
            .iter()
            .zip(plan)
            .map(|(choices, index)| Reason::of(choices, *index, problem.objective))
            .collect()
    }

    fn of(choices: &[Choice], chosen: usize, objective: Objective) -> Reason {
        let own = choices[chosen].totals;
        let others =
            choices.iter().enumerate().filter(|(index, _)| *index != chosen).map(|(_, choice)| Alternative {
                strategy: choice.strategy,
                cost_change: objective.of(&choice.totals) - objective.of(&own),
                sensitivity_change_nats: choice.totals.sensitivity_nats - own.sensitivity_nats,
            });
        let by_rate = |a: &Alternative, b: &Alternative| a.rate_per_nat().total_cmp(&b.rate_per_nat());
        Reason {
            cheaper: others
                .clone()
                .filter(|other| other.cost_change < 0.0 && other.sensitivity_change_nats > 0.0)
                .max_by(by_rate),
            safer: others
                .filter(|other| other.sensitivity_change_nats < 0.0 && other.cost_change >= 0.0)
                .min_by(by_rate),
        }
    }
}
