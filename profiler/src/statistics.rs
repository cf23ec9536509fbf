//! The statistics that figures are printed with: means with t-intervals, Welch's test, rank correlation, intervals
//! of proportions, bootstrap.

use rand::Rng;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Two-sided 95 % quantile of the normal distribution.
pub const Z95: f64 = 1.959_963_984_540_054;

/// Mean and spread of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub n: usize,
    /// Mean, 0 of an empty sample.
    pub mean: f64,
    /// Standard deviation of the values, `None` below two of them.
    pub standard_deviation: Option<f64>,
    /// Half width of the 95 % confidence interval of the mean (Student's t), `None` below two values.
    pub ci95: Option<f64>,
}

impl Summary {
    /// Summary of some values.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = if n == 0 { 0.0 } else { values.iter().sum::<f64>() / n as f64 };
        let standard_deviation = (n >= 2).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (squares / (n - 1) as f64).sqrt()
        });
        let ci95 = standard_deviation.map(|sd| t_quantile(0.975, (n - 1) as f64) * sd / (n as f64).sqrt());
        Summary { n, mean, standard_deviation, ci95 }
    }

    /// Half width of the interval by the mean.
    pub fn relative_ci95(&self) -> Option<f64> {
        self.ci95.map(|ci95| ci95 / self.mean.abs())
    }
}

/// Quantile of Student's t distribution.
pub(crate) fn t_quantile(probability: f64, degrees_of_freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees_of_freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(probability))
}

/// Whether two samples have the same mean, by Welch's t-test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Mean of the second less mean of the first.
    pub difference: f64,
    /// Half width of the 95 % confidence interval of the difference.
    pub ci95: f64,
    /// Two-sided probability of a difference as large as this between equal means.
    pub p_value: f64,
}

/// Compares two samples of unequal variance; `None` when one is too small or neither varies.
pub fn welch(first: &[f64], second: &[f64]) -> Option<Comparison> {
    compare_summaries(&Summary::of(first), &Summary::of(second))
}

/// Compares two means of which only the summaries are kept.
pub fn compare_summaries(first: &Summary, second: &Summary) -> Option<Comparison> {
    let variance_of_mean = |s: &Summary| Some(s.standard_deviation?.powi(2) / s.n as f64);
    let (v1, v2) = (variance_of_mean(first)?, variance_of_mean(second)?);
    let standard_error = (v1 + v2).sqrt();
    if standard_error == 0.0 {
        return None;
    }
    let degrees_of_freedom =
        (v1 + v2).powi(2) / (v1 * v1 / (first.n - 1) as f64 + v2 * v2 / (second.n - 1) as f64);
    let difference = second.mean - first.mean;
    let t = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok()?;
    Some(Comparison {
        difference,
        ci95: t.inverse_cdf(0.975) * standard_error,
        p_value: 2.0 * t.sf((difference / standard_error).abs()),
    })
}

/// Holm's correction of the p-values of several tests made at once (Scandinavian Journal of Statistics 6, 1979): those
/// below 0.05 after it are together wrong once in twenty times at most.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut least = 0.0_f64;
    for (place, &index) in order.iter().enumerate() {
        least = least.max((p_values.len() - place) as f64 * p_values[index]).min(1.0);
        corrected[index] = least;
    }
    corrected
}

/// Rank correlation of two equally long samples, ties at their mean rank; `None` when one of them is constant.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Linear correlation; `None` when one of them is constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len()) as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xy += (a - mean_x) * (b - mean_y);
        xx += (a - mean_x).powi(2);
        yy += (b - mean_y).powi(2);
    }
    let scale = (xx * yy).sqrt();
    (scale > 0.0).then(|| xy / scale)
}

/// Rank of each value, counted from 1, equal values at the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean_rank = start as f64 + (group.len() + 1) as f64 / 2.0;
        for &i in group {
            ranks[i] = mean_rank;
        }
        start += group.len();
    }
    ranks
}

/// An interval around an estimate, not necessarily symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson's 95 % interval of a proportion; `None` without any trial.
pub fn wilson(successes: usize, trials: usize) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let (n, p, z2) = (trials as f64, successes as f64 / trials as f64, Z95 * Z95);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half_width = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Some(Interval { low: (centre - half_width).max(0.0), high: (centre + half_width).min(1.0) })
}

/// 95 % percentile interval of a statistic of `n` items, by drawing them again `draws` times with replacement.
///
/// `statistic` sees the drawn indices; draws for which it has no value are left out.
pub fn bootstrap(
    n: usize,
    draws: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let mut random = Pcg64::seed_from_u64(seed);
    let mut indices = vec![0; n];
    let mut values: Vec<f64> = (0..draws)
        .filter_map(|_| {
            indices.fill_with(|| random.random_range(0..n));
            statistic(&indices)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values.get(((values.len() - 1) as f64 * q).round() as usize).copied();
    if values.is_empty() { None } else { Some(Interval { low: at(0.025)?, high: at(0.975)? }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard normal values by Box and Muller.
    fn normals(random: &mut Pcg64, n: usize) -> Vec<f64> {
        let mut normal = || {
            let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        (0..n).map(|_| normal()).collect()
    }

    /// Bounds of a count of successes that a right probability leaves once in about 15,000 seeds (4 sigma).
    fn four_sigma(trials: usize, probability: f64) -> std::ops::RangeInclusive<f64> {
        let (mean, sd) =
            (trials as f64 * probability, (trials as f64 * probability * (1.0 - probability)).sqrt());
        mean - 4.0 * sd..=mean + 4.0 * sd
    }

    #[test]
    fn a_summary_by_hand() {
        // 2, 4, 6: mean 4, sd 2, t(0.975, 2) = 4.302653, half width 4.302653 * 2 / sqrt(3).
        let summary = Summary::of(&[2.0, 4.0, 6.0]);
        assert_eq!((summary.mean, summary.standard_deviation), (4.0, Some(2.0)));
        assert!((summary.ci95.unwrap() - 4.968_275).abs() < 1e-5);
        assert_eq!(Summary::of(&[3.0]).ci95, None);
    }

    #[test]
    fn t_intervals_cover_the_mean_as_often_as_they_say() {
        let mut random = Pcg64::seed_from_u64(1);
        for n in [2, 3, 5, 20] {
            let covered = (0..4000)
                .filter(|_| {
                    let summary = Summary::of(&normals(&mut random, n));
                    summary.mean.abs() <= summary.ci95.unwrap()
                })
                .count();
            assert!(four_sigma(4000, 0.95).contains(&(covered as f64)), "n = {n}: {covered} of 4000");
        }
    }

    #[test]
    fn welch_calls_equal_means_different_once_in_twenty() {
        let mut random = Pcg64::seed_from_u64(2);
        let (mut rejected, mut covered) = (0, 0);
        for _ in 0..4000 {
            let first = normals(&mut random, 5);
            let second: Vec<f64> = normals(&mut random, 8).iter().map(|value| 3.0 * value).collect();
            let comparison = welch(&first, &second).unwrap();
            rejected += usize::from(comparison.p_value < 0.05);
            covered += usize::from(comparison.difference.abs() <= comparison.ci95);
        }
        // Welch's degrees of freedom are an approximation: half a percentage point is allowed beside the chance.
        let slack = 0.005 * 4000.0;
        let expected = four_sigma(4000, 0.05);
        assert!(
            (expected.start() - slack..=expected.end() + slack).contains(&(rejected as f64)),
            "{rejected}"
        );
        assert_eq!(rejected + covered, 4000, "interval and test are the same statement");
    }

    #[test]
    fn welch_sees_a_difference_and_its_direction() {
        let comparison = welch(&[1.0, 1.1, 0.9, 1.0], &[2.0, 2.1, 1.9, 2.0]).unwrap();
        assert!((comparison.difference - 1.0).abs() < 1e-12);
        assert!(comparison.p_value < 1e-4);
        assert_eq!(welch(&[1.0, 1.0], &[1.0, 1.0]), None);
        assert_eq!(welch(&[1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn holm_by_hand() {
        // 0.01 x 4, 0.02 x 3, then max(0.06, 0.03 x 2) and max(0.06, 0.9).
        let corrected = holm(&[0.9, 0.01, 0.03, 0.02]);
        for (value, expected) in corrected.iter().zip([0.9, 0.04, 0.06, 0.06]) {
            assert!((value - expected).abs() < 1e-12, "{corrected:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn ranks_share_ties() {
        assert_eq!(ranks(&[10.0, 30.0, 10.0, 20.0]), [1.5, 4.0, 1.5, 3.0]);
    }

    #[test]
    fn rank_correlation_by_hand() {
        // Any increasing map leaves ranks alone.
        assert_eq!(spearman(&[1.0, 2.0, 3.0, 4.0], &[1.0, 8.0, 27.0, 64.0]), Some(1.0));
        // Ranks 1 2 3 4 5 against 2 1 4 3 5: sum of squared differences 4, 1 - 6 * 4 / (5 * 24) = 0.8.
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0]).unwrap();
        assert!((rho - 0.8).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn wilson_by_hand_and_by_coverage() {
        // 8 of 10, textbook values.
        let interval = wilson(8, 10).unwrap();
        assert!((interval.low - 0.4902).abs() < 1e-4 && (interval.high - 0.9433).abs() < 1e-4);
        assert_eq!(wilson(0, 0), None);
        assert!((wilson(10, 10).unwrap().high - 1.0).abs() < 1e-12);
        let mut random = Pcg64::seed_from_u64(3);
        let covered = (0..4000)
            .filter(|_| {
                let successes = (0..200).filter(|_| random.random::<f64>() < 0.9).count();
                let interval = wilson(successes, 200).unwrap();
                (interval.low..=interval.high).contains(&0.9)
            })
            .count();
        // Discreteness moves the true coverage at n = 200, p = 0.9 to 0.9561 (summed over the binomial).
        assert!(four_sigma(4000, 0.9561).contains(&(covered as f64)), "{covered} of 4000");
    }

    #[test]
    fn the_bootstrap_interval_of_a_mean_agrees_with_the_normal_one() {
        let mut random = Pcg64::seed_from_u64(4);
        let values = normals(&mut random, 400);
        let mean_of =
            |indices: &[usize]| Some(indices.iter().map(|&i| values[i]).sum::<f64>() / indices.len() as f64);
        let interval = bootstrap(values.len(), 2000, 5, mean_of).unwrap();
        let summary = Summary::of(&values);
        let half_width = (interval.high - interval.low) / 2.0;
        // A 2.5 % quantile of 2000 draws has a standard error of 1.2 % of the half width; the bootstrap and the
        // normal interval differ by as little at n = 400. Five such errors.
        assert!((half_width / summary.ci95.unwrap() - 1.0).abs() < 0.06);
        assert!(((interval.low + interval.high) / 2.0 - summary.mean).abs() < 0.06 * half_width * 2.0);
        assert_eq!(bootstrap(0, 10, 1, |_| Some(1.0)), None);
    }
}
