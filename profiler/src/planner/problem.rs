//! What the planner decides: one choice per group, at the least cost within limits.

use serde::{Deserialize, Serialize};

/// What a choice, or a whole plan, adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Divergence from the reference, in nats per item.
    pub sensitivity_nats: f64,
    /// Energy of one request.
    pub energy_j: f64,
    /// Bytes of the weights.
    pub size_bytes: f64,
    /// Time of one request.
    pub duration_s: f64,
}

impl std::ops::Add for Totals {
    type Output = Totals;

    fn add(self, other: Totals) -> Totals {
        Totals {
            sensitivity_nats: self.sensitivity_nats + other.sensitivity_nats,
            energy_j: self.energy_j + other.energy_j,
            size_bytes: self.size_bytes + other.size_bytes,
            duration_s: self.duration_s + other.duration_s,
        }
    }
}

/// What a plan is to use least of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Joules of a request.
    #[default]
    Energy,
    /// Seconds of a request.
    Time,
    /// Bytes of the weights.
    Bytes,
}

impl Objective {
    /// How much of it something uses.
    pub fn of(self, totals: &Totals) -> f64 {
        match self {
            Objective::Energy => totals.energy_j,
            Objective::Time => totals.duration_s,
            Objective::Bytes => totals.size_bytes,
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Objective::Energy => "J",
            Objective::Time => "s",
            Objective::Bytes => "B",
        }
    }

    /// Name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Energy => "energy",
            Objective::Time => "time",
            Objective::Bytes => "bytes",
        }
    }
}

/// One way to keep the weights of a group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Index of the strategy in the planner's list.
    pub strategy: usize,
    /// What it adds to the plan.
    pub totals: Totals,
}

/// Groups with their feasible choices; a group without any makes every plan infeasible.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What is to be used least of.
    pub objective: Objective,
    /// What no choice changes.
    pub fixed: Totals,
    /// Choices of each group.
    pub groups: Vec<Vec<Choice>>,
}

/// What a plan must not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Divergence from the reference.
    pub sensitivity_nats: Option<f64>,
    /// Bytes of the weights.
    pub size_bytes: Option<f64>,
    /// Time of one request.
    pub duration_s: Option<f64>,
}

/// Relative slack of a limit: sums of the same terms in another order differ by a few units in the last place.
const ROUNDING: f64 = 1e-12;

impl Limits {
    /// Whether a plan keeps to them.
    pub fn allow(&self, totals: &Totals) -> bool {
        let within = |value: f64, limit: Option<f64>| {
            limit.is_none_or(|limit| value <= limit + ROUNDING * limit.abs())
        };
        within(totals.sensitivity_nats, self.sensitivity_nats)
            && within(totals.size_bytes, self.size_bytes)
            && within(totals.duration_s, self.duration_s)
    }
}

impl Problem {
    /// What a plan adds up to; `plan` has the index of a choice for each group.
    pub fn totals(&self, plan: &[usize]) -> Totals {
        let chosen = self.groups.iter().zip(plan).map(|(choices, index)| choices[*index].totals);
        chosen.fold(self.fixed, |sum, totals| sum + totals)
    }

    /// The plan that has a strategy in every group that may choose it, and the first choice in all others.
    pub fn everywhere(&self, strategy: usize) -> Vec<usize> {
        let of = |choices: &Vec<Choice>| choices.iter().position(|choice| choice.strategy == strategy);
        self.groups.iter().map(|choices| of(choices).unwrap_or(0)).collect()
    }
}
