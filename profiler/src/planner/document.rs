//! Everything a planning run found out: `sensitivity.json` and `pareto.json`, and what reports are drawn from.
//!
//! Energies are in joules per request, sensitivities in nats per item (token, or classified text). Every figure of
//! energy has the provenance and the sensor that stand in `costs`; a pair that was not measured says `estimated`.

use serde::{Deserialize, Serialize};

use super::additivity::Additivity;
use super::bound::Bound;
use super::cost::{Costs, PairCost};
use super::findings::Findings;
use super::front::Point;
use super::problem::{Limits, Objective, Problem, Totals};
use super::reason::Reason;
use super::sensitivity::{Impact, Outcome};
use super::verify::{Saving, Verdict, Verified};

/// Value of the field `schema` of `sensitivity.json`.
pub const SCHEMA: &str = "joulewise-plan";

/// A planning run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Study {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Program and version that wrote it.
    pub generator: String,
    /// The model, as the user named it.
    pub model: String,
    /// Where it ran.
    pub device: String,
    /// The workload that energies are per request of.
    pub request: RequestShape,
    /// Names of the strategies; the first is the reference.
    pub strategies: Vec<String>,
    /// What the plan was made on.
    pub probe: DataShape,
    /// What the plan was verified on.
    pub holdout: DataShape,
    /// What the plan must not exceed.
    pub limits: Limits,
    /// What it is to use least of.
    pub objective: Objective,
    /// The groups, in program order.
    pub groups: Vec<GroupRow>,
    /// Energy and time.
    pub costs: Costs,
    /// The choices that the planner had.
    pub problem: Problem,
    /// Whether losses add up.
    pub additive_loss: Option<Additivity>,
    /// Whether energies add up.
    pub additive_energy: Option<Additivity>,
    /// Solving, running and solving again.
    pub rounds: Vec<SolveRound>,
    /// The plan.
    pub chosen: Chosen,
    /// The reference, every uniform strategy and the plan on held-out data; the plan is the last one.
    pub verified: Vec<Verified>,
    /// Loss within its limit, on held-out data.
    pub loss_verdict: Verdict,
    /// Lower cost than the reference.
    pub cost_verdict: Verdict,
    /// What it says of the model as a whole.
    pub findings: Findings,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestShape {
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of each prompt, or of each input of an encoder.
    pub prompt_tokens: usize,
    /// Tokens that are generated.
    pub generated_tokens: usize,
}

/// Some data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataShape {
    /// Where it comes from.
    pub source: String,
    /// Texts.
    pub texts: usize,
    /// Answers that are compared.
    pub items: usize,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// Its layer.
    pub block: Option<u32>,
    /// Paths of its modules.
    pub paths: Vec<String>,
    /// Elements of its weights.
    pub parameters: usize,
    /// Operations of a request.
    pub flops: f64,
    /// Bytes of a request, under the reference.
    pub bytes: f64,
    /// What its outputs matter.
    pub impact: Impact,
    /// By strategy; the first is the reference.
    pub pairs: Vec<PairRow>,
}

/// One group under one strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// What it does to the answers; `None` for the reference.
    pub outcome: Option<Outcome>,
    /// What it costs; `None` where it cannot be run.
    pub cost: Option<PairCost>,
    /// Why the planner may not choose it.
    pub excluded: Option<String>,
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolveRound {
    /// Sum of sensitivities that was allowed.
    pub budget_nats: f64,
    /// Sum of sensitivities of the plan.
    pub predicted_nats: f64,
    /// Divergence of the plan, run: its mean and one standard error.
    pub measured_nats: f64,
    /// Predicted cost, in the unit of the objective.
    pub cost: f64,
    /// Whether the measured divergence keeps to the limit.
    pub is_accepted: bool,
}

/// The plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Name of the strategy of each group.
    pub strategies: Vec<String>,
    /// Groups whose strategy a person has pinned.
    pub pinned: Vec<bool>,
    /// What it should add up to.
    pub predicted: Totals,
    /// What the reference adds up to.
    pub reference: Totals,
    /// No plan within its sensitivity costs less than this.
    pub bound: Option<Bound>,
    /// Why each group got what it got.
    pub reasons: Vec<Reason>,
}

/// `pareto.json`: every plan that no other beats in both respects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pareto {
    /// Names of the groups.
    pub groups: Vec<String>,
    /// Names of the strategies; points name them by their place.
    pub strategies: Vec<String>,
    /// Whether nothing was left out while searching.
    pub is_exact: bool,
    /// Plans on the front.
    pub plans: usize,
    /// The plans by rising sensitivity; `plan` has the strategy of each group. Beyond [`Pareto::MOST`], evenly spread.
    pub points: Vec<Point>,
}

impl Pareto {
    /// Plans that are written out at most.
    pub const MOST: usize = 5_000;
}

impl Study {
    /// The verified plan.
    pub fn verified_plan(&self) -> Option<&Verified> {
        self.verified.last()
    }

    /// The verified reference.
    pub fn verified_reference(&self) -> Option<&Verified> {
        self.verified.first()
    }

    /// What the plan saves of a model's cost.
    pub fn saving_of(&self, model: &Verified) -> Option<Saving> {
        let plan = self.verified_plan().filter(|plan| plan.name != model.name)?;
        model.saving_of(plan, self.objective)
    }

    /// The uniform strategies whose answers are as good as the plan's, or better.
    pub fn rivals(&self) -> Vec<&Verified> {
        let Some(plan) = self.verified_plan() else { return Vec::new() };
        let others = self.verified.iter().take(self.verified.len() - 1);
        others.filter(|other| other.is_as_good_as(plan)).collect()
    }

    /// Whether the plan costs less than each of its rivals.
    pub fn against_uniform(&self) -> Standing {
        let rivals = self.rivals();
        let named = |verdict: Verdict| {
            let is = |model: &&&Verified| {
                self.saving_of(model).map_or(Verdict::Inconclusive, |saving| saving.verdict()) == verdict
            };
            rivals.iter().filter(is).map(|model| model.name.clone()).collect()
        };
        Standing {
            objective: self.objective,
            beaten: named(Verdict::Pass),
            level: named(Verdict::Inconclusive),
            ahead: named(Verdict::Fail),
        }
    }

    /// What is left to gain on the rivals that the plan does not beat.
    pub fn room_below_rivals(&self) -> Vec<Room> {
        let Standing { level, ahead, .. } = self.against_uniform();
        level.into_iter().chain(ahead).filter_map(|name| self.room_below(name)).collect()
    }

    fn room_below(&self, name: String) -> Option<Room> {
        let index = self.strategies.iter().position(|strategy| *strategy == name)?;
        let totals = self.problem.totals(&self.problem.everywhere(index));
        let bound = Bound::of(&self.problem, totals.sensitivity_nats)?;
        Some(Room { name, cost: self.objective.of(&totals), bound: bound.cost })
    }
}

/// What a plan could cost less than a strategy everywhere, at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// The strategy; in groups that may not choose it, the reference.
    pub name: String,
    /// What it adds up to, in the unit of the objective.
    pub cost: f64,
    /// No plan that is predicted to lose as little or less costs less than this.
    pub bound: f64,
}

/// How the plan stands among the uniform strategies whose answers are as good as its own, or better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    objective: Objective,
    /// They cost more.
    pub beaten: Vec<String>,
    /// They cannot be told apart from it.
    pub level: Vec<String>,
    /// They cost less.
    pub ahead: Vec<String>,
}

impl Standing {
    /// The standing in a sentence.
    pub fn sentence(&self) -> String {
        let clause = |names: &[String], what: &str| {
            (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
        };
        let clauses: Vec<String> = [
            clause(&self.beaten, "it beats"),
            clause(&self.level, "it cannot be told apart from"),
            clause(&self.ahead, "it is beaten by"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let what = self.objective.name();
        let summary = if !self.ahead.is_empty() {
            "a uniform strategy that answers as well or better costs less than the plan"
        } else if !self.level.is_empty() {
            "no uniform strategy that answers as well or better costs less than the plan"
        } else {
            "the plan beats every uniform strategy that answers as well or better"
        };
        format!("{summary} ({what}: {})", clauses.join("; "))
    }
}
