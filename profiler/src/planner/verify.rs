//! Does a plan keep its promise on data that had no part in making it?

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use super::divergence::Divergence;
use crate::statistics::Summary;

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

/// A model under some plan, run on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Name of the strategy, or `plan`.
    pub name: String,
    /// Distance from the reference on held-out data.
    pub divergence: Divergence,
    /// Energy of a request in each round; rounds are the same for all.
    pub energies_j: Vec<f64>,
    /// Time of a request in each round.
    pub durations_s: Vec<f64>,
    /// Bytes of the weights.
    pub weight_bytes: f64,
}

/// A difference between two models, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saving {
    /// Mean energy less than the other's, as a share of the other's.
    pub share: f64,
    /// Half width of its 95 % interval; `None` with a single round.
    pub ci95: Option<f64>,
}

impl Verified {
    /// What it saves of the other's energy.
    pub fn saving_over(&self, other: &Verified) -> Option<Saving> {
        let pairs = self.energies_j.iter().zip(&other.energies_j);
        let shares: Vec<f64> = pairs.map(|(own, other)| 1.0 - own / other).collect();
        let summary = Summary::of(&shares);
        (summary.n > 0).then_some(Saving { share: summary.mean, ci95: summary.ci95 })
    }

    /// Mean energy of a request.
    pub fn energy(&self) -> Summary {
        Summary::of(&self.energies_j)
    }

    /// Whether its answers are as near to the reference's as the other's, or nearer.
    pub fn is_as_good_as(&self, other: &Verified) -> bool {
        self.divergence.kl_nats.mean <= other.divergence.kl_nats.mean
    }
}

impl Saving {
    /// Saves something (pass), costs more (fail), or neither can be told from the noise.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.ci95.map(|ci95| (-self.share - ci95, -self.share + ci95)), 0.0)
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
    fn savings_are_paired_by_round() {
        let model = |energies_j: &[f64]| Verified {
            name: String::new(),
            divergence: Divergence::default(),
            energies_j: energies_j.to_vec(),
            durations_s: Vec::new(),
            weight_bytes: 0.0,
        };
        // The machine is twice as busy in the second round; the saving is the same in both.
        let saving = model(&[0.8, 1.6]).saving_over(&model(&[1.0, 2.0])).unwrap();
        assert!((saving.share - 0.2).abs() < 1e-12 && saving.ci95.unwrap() < 1e-12);
        assert_eq!(saving.verdict(), Verdict::Pass);
        assert_eq!(model(&[1.0]).saving_over(&model(&[1.0])).unwrap().verdict(), Verdict::Inconclusive);
    }

    #[test]
    fn mcnemar_by_hand() {
        // 1 against 5: 2 (1 + 6) / 64.
        assert!((mcnemar(5, 1) - 14.0 / 64.0).abs() < 1e-12);
        assert_eq!((mcnemar(3, 3), mcnemar(0, 0)), (1.0, 1.0));
    }
}
