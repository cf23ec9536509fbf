//! Does a plan keep its promise on data that had no part in making it?

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use super::divergence::Divergence;
use super::median::Median;
use super::problem::Objective;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole 95 % interval keeps to the limit.
    Pass,
    /// The whole 95 % interval breaks it.
    Fail,
    /// The limit lies within the interval: more data would tell.
    Inconclusive,
}

impl Verdict {
    /// By an interval and what it must not exceed.
    pub fn of(interval: Option<(f64, f64)>, limit: f64) -> Verdict {
        match interval {
            Some((_, high)) if high <= limit => Verdict::Pass,
            Some((low, _)) if low > limit => Verdict::Fail,
            _ => Verdict::Inconclusive,
        }
    }

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// A model under some plan, run on held-out data, and in turns with the plan that is verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Name of the strategy, or [`Verified::PLAN`].
    pub name: String,
    /// Distance from the reference on held-out data.
    pub divergence: Divergence,
    /// Energy of a request in each turn.
    pub energies_j: Vec<f64>,
    /// Time of a request in each turn.
    pub durations_s: Vec<f64>,
    /// The plan's energy in the same turns; none for the plan itself.
    pub plan_energies_j: Vec<f64>,
    /// The plan's time in the same turns.
    pub plan_durations_s: Vec<f64>,
    /// Bytes of the weights.
    pub weight_bytes: f64,
}

/// What the plan saves of another model's cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saving {
    /// Cost less than the other's, as a share of the other's: median over the turns.
    pub share: f64,
    /// Its 95 % interval; `None` with a single turn.
    pub ci95: Option<(f64, f64)>,
}

impl Verified {
    /// The plan's own name.
    pub const PLAN: &str = "plan";

    /// A model whose costs are still to be measured.
    pub fn new(name: &str, divergence: Divergence, weight_bytes: f64) -> Self {
        Verified {
            name: name.to_owned(),
            divergence,
            energies_j: Vec::new(),
            durations_s: Vec::new(),
            plan_energies_j: Vec::new(),
            plan_durations_s: Vec::new(),
            weight_bytes,
        }
    }

    /// What the plan saves of this model's cost; `None` without turns.
    pub fn saving_of(&self, plan: &Verified, objective: Objective) -> Option<Saving> {
        let (own, plans) = match objective {
            Objective::Energy => (&self.energies_j, &self.plan_energies_j),
            Objective::Time => (&self.durations_s, &self.plan_durations_s),
            Objective::Bytes => {
                let share = 1.0 - plan.weight_bytes / self.weight_bytes;
                return Some(Saving { share, ci95: Some((share, share)) });
            }
        };
        let shares: Vec<f64> = plans.iter().zip(own).map(|(plan, own)| 1.0 - plan / own).collect();
        let median = Median::of(&shares);
        (median.n > 0).then_some(Saving { share: median.value, ci95: median.ci95 })
    }

    /// Cost of a request: the plan's median, times the median ratio to the plan where this is another model. So models
    /// can be compared that were measured at different times.
    pub fn cost(&self, plan: &Verified, objective: Objective) -> Median {
        let (own, plans, plan_all) = match objective {
            Objective::Energy => (&self.energies_j, &self.plan_energies_j, &plan.energies_j),
            Objective::Time => (&self.durations_s, &self.plan_durations_s, &plan.durations_s),
            Objective::Bytes => {
                let value = self.weight_bytes;
                return Median { n: 1, value, ci95: Some((value, value)) };
            }
        };
        if plans.is_empty() {
            return Median::of(own);
        }
        let scale = Median::of(plan_all).value;
        let ratios: Vec<f64> = own.iter().zip(plans).map(|(own, plan)| own / plan).collect();
        let ratio = Median::of(&ratios);
        let ci95 = ratio.ci95.map(|(low, high)| (scale * low, scale * high));
        Median { n: ratio.n, value: scale * ratio.value, ci95 }
    }

    /// Whether its answers are as near to the reference's as the other's, or nearer.
    pub fn is_as_good_as(&self, other: &Verified) -> bool {
        self.divergence.kl_nats.mean <= other.divergence.kl_nats.mean
    }
}

impl Saving {
    /// Saves something (pass), costs more (fail), or neither can be told from the noise.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.ci95.map(|(low, high)| (-high, -low)), 0.0)
    }
}

/// McNemar's exact test: how likely as uneven a split of the items that only one of two models gets right is, if both
/// are equally good.
pub fn mcnemar(lost: usize, won: usize) -> f64 {
    let (fewer, all) = (lost.min(won) as u64, (lost + won) as u64);
    let tail = Binomial::new(0.5, all).map_or(1.0, |binomial| binomial.cdf(fewer));
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_decides() {
        assert_eq!(Verdict::of(Some((0.1, 0.2)), 0.2), Verdict::Pass);
        assert_eq!(Verdict::of(Some((0.21, 0.3)), 0.2), Verdict::Fail);
        assert_eq!(Verdict::of(Some((0.1, 0.3)), 0.2), Verdict::Inconclusive);
        assert_eq!(Verdict::of(None, 0.2), Verdict::Inconclusive);
    }

    #[test]
    fn savings_are_paired_by_turn() {
        let model = |energies_j: &[f64], plan_energies_j: &[f64]| Verified {
            energies_j: energies_j.to_vec(),
            plan_energies_j: plan_energies_j.to_vec(),
            ..Verified::new("", Divergence::default(), 8.0)
        };
        // The machine is twice as busy in the second turn; the saving is the same in both.
        let plan = Verified { weight_bytes: 2.0, ..model(&[0.8, 1.6], &[]) };
        let other = model(&[1.0, 2.0], &[0.8, 1.6]);
        let saving = other.saving_of(&plan, Objective::Energy).unwrap();
        let (low, high) = saving.ci95.unwrap();
        assert!((saving.share - 0.2).abs() < 1e-12 && high - low < 1e-12);
        assert_eq!(saving.verdict(), Verdict::Pass);
        let bytes = other.saving_of(&plan, Objective::Bytes).unwrap();
        assert_eq!((bytes.share, bytes.verdict()), (0.75, Verdict::Pass));
        let same = model(&[1.0], &[1.0]).saving_of(&plan, Objective::Energy).unwrap();
        assert_eq!(same.verdict(), Verdict::Inconclusive);
        // The plan takes 1.2 on average over all its turns, the other 1 / 0.8 of that.
        assert!((other.cost(&plan, Objective::Energy).value - 1.5).abs() < 1e-12);
        assert_eq!(other.saving_of(&plan, Objective::Time), None);
    }

    #[test]
    fn mcnemar_by_hand() {
        // 1 against 5: 2 (1 + 6) / 64.
        assert!((mcnemar(5, 1) - 14.0 / 64.0).abs() < 1e-12);
        assert_eq!((mcnemar(3, 3), mcnemar(0, 0)), (1.0, 1.0));
    }
}
