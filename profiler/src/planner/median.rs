//! The middle of a few figures that were taken on a machine which others use, too.
//!
//! Whoever disturbs a measurement makes it longer, sometimes many times over, so a mean follows the worst disturbance
//! and its interval becomes useless. The median follows the undisturbed half, and its interval between two order
//! statistics holds whatever the distribution is (Conover, Practical Nonparametric Statistics, section 3.2).

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use crate::statistics::Summary;

/// A middle, with what is known of its error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// Values behind it.
    pub n: usize,
    /// The median.
    pub value: f64,
    /// Lower and upper end of its 95 % interval; `None` below two values.
    pub ci95: Option<(f64, f64)>,
}

impl Median {
    /// The median of some values; 0 without any. Below six values no pair of order statistics is far enough apart for
    /// 95 %: there it is the mean with Student's interval.
    pub fn of(values: &[f64]) -> Median {
        let n = values.len();
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let outside = |rank: usize| {
            // Probability that the median lies below the value of this rank, counted from 0.
            Binomial::new(0.5, n as u64).map_or(1.0, |binomial| binomial.cdf(rank as u64))
        };
        match (0..n / 2).take_while(|rank| outside(*rank) <= 0.025).last() {
            Some(rank) => {
                let value = 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]);
                Median { n, value, ci95: Some((sorted[rank], sorted[n - 1 - rank])) }
            }
            None => {
                let summary = Summary::of(values);
                let ci95 = summary.ci95.map(|half| (summary.mean - half, summary.mean + half));
                Median { n, value: summary.mean, ci95 }
            }
        }
    }

    /// The wider side of the interval.
    pub fn half_width(&self) -> Option<f64> {
        self.ci95.map(|(low, high)| (self.value - low).max(high - self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    #[test]
    fn medians_by_hand() {
        // Of six values, all lie on one side of the median once in 32 times: 2 / 2^6 = 3.1 %.
        let six = Median::of(&[6.0, 1.0, 5.0, 2.0, 4.0, 1000.0]);
        assert_eq!(six, Median { n: 6, value: 4.5, ci95: Some((1.0, 1000.0)) });
        // Of nine, the second and the eighth: 2 * (1 + 9) / 2^9 = 3.9 %.
        let nine = Median::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!((nine.value, nine.ci95), (5.0, Some((2.0, 8.0))));
        assert_eq!(nine.half_width(), Some(3.0));
        let two = Median::of(&[1.0, 3.0]);
        assert_eq!((two.value, two.half_width()), (2.0, Summary::of(&[1.0, 3.0]).ci95));
        assert_eq!(Median::of(&[]), Median::default());
    }

    #[test]
    fn the_interval_covers_the_median_of_figures_that_are_now_and_then_disturbed() {
        let mut random = Pcg64::seed_from_u64(3);
        let trials = 4000;
        for n in [6, 8, 10, 16] {
            let covered = (0..trials).filter(|_| {
                let values: Vec<f64> = (0..n)
                    .map(|_| {
                        let disturbed = if random.random::<f64>() < 0.2 { 20.0 } else { 1.0 };
                        disturbed * random.random_range(-1.0..1.0)
                    })
                    .collect();
                let (low, high) = Median::of(&values).ci95.unwrap();
                low <= 0.0 && 0.0 <= high
            });
            let covered = covered.count() as f64 / f64::from(trials);
            // The ranks promise 95 % or more; four standard errors of a proportion below that would be chance.
            assert!(covered >= 0.95 - 4.0 * (0.95f64 * 0.05 / f64::from(trials)).sqrt(), "{n}: {covered}");
        }
    }
}
