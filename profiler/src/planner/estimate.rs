//! A mean over items that come in sequences, with what is known of its error.

use serde::{Deserialize, Serialize};

use crate::statistics::t_quantile;

/// A mean and its uncertainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` from a single sequence.
    pub standard_error: Option<f64>,
    /// Half width of its 95 % confidence interval.
    pub ci95: Option<f64>,
}

impl Estimate {
    /// The mean over all items of sums over sequences, `(sum, items)` each.
    ///
    /// Items of one sequence resemble each other, so only sequences count as independent: the error is that of a ratio
    /// of two sums over clusters (Cochran 1977, section 6.4).
    pub fn of_clusters(clusters: &[(f64, usize)]) -> Self {
        let n: f64 = clusters.iter().map(|(_, items)| *items as f64).sum();
        if n == 0.0 {
            return Estimate::default();
        }
        let mean = clusters.iter().map(|(sum, _)| sum).sum::<f64>() / n;
        let count = clusters.len() as f64;
        let standard_error = (clusters.len() >= 2).then(|| {
            let squares: f64 = clusters.iter().map(|(sum, items)| (sum - mean * *items as f64).powi(2)).sum();
            (squares * count / (count - 1.0)).sqrt() / n
        });
        let ci95 = standard_error.map(|error| t_quantile(0.975, count - 1.0) * error);
        Estimate { mean, standard_error, ci95 }
    }

    /// Lower and upper end of the 95 % interval.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.ci95.map(|ci95| (self.mean - ci95, self.mean + ci95))
    }

    /// The mean and one standard error, never below 0: what a planner that fears lucky noise counts with.
    pub fn cautious(&self) -> f64 {
        (self.mean + self.standard_error.unwrap_or(0.0)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    #[test]
    fn clusters_of_one_item_are_a_plain_mean() {
        let estimate = Estimate::of_clusters(&[(2.0, 1), (4.0, 1), (6.0, 1)]);
        let summary = crate::statistics::Summary::of(&[2.0, 4.0, 6.0]);
        assert_eq!(estimate.mean, summary.mean);
        // The same sums in another order.
        assert!((estimate.ci95.unwrap() - summary.ci95.unwrap()).abs() < 1e-12);
        assert_eq!(Estimate::of_clusters(&[(1.0, 3)]).ci95, None);
        assert_eq!(Estimate { mean: -1.0, ..Estimate::default() }.cautious(), 0.0);
    }

    #[test]
    fn items_that_resemble_each_other_are_not_counted_as_independent() {
        let mut random = Pcg64::seed_from_u64(6);
        let trials = 2000;
        let covered = (0..trials).filter(|_| {
            let clusters: Vec<(f64, usize)> = (0..24)
                .map(|_| {
                    let (common, items) = (random.random_range(-1.0..1.0), random.random_range(5..15));
                    let sum = (0..items).map(|_| common + random.random_range(-0.2..0.2)).sum();
                    (sum, items)
                })
                .collect();
            let estimate = Estimate::of_clusters(&clusters);
            estimate.mean.abs() <= estimate.ci95.unwrap()
        });
        let covered = covered.count() as f64 / trials as f64;
        // Four standard errors of a proportion of 2000, and a percentage point for the ratio's bias at 24 clusters.
        assert!((covered - 0.95).abs() < 4.0 * (0.95f64 * 0.05 / 2000.0).sqrt() + 0.01, "{covered}");
    }
}
