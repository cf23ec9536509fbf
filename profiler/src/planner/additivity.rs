//! Do losses and savings add up? Random plans are run and held against the sum of their parts.

use joulewise_engine::Strategy;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::statistics::{pearson, spearman};

/// A plan, as predicted and as measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Sum over the groups.
    pub predicted: f64,
    /// The whole, run.
    pub measured: f64,
    /// Half width of its 95 % interval.
    pub measured_ci95: Option<f64>,
}

/// The line through the trials, and how well it fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Additivity {
    /// Measured per predicted; 1 where the parts add up.
    pub slope: f64,
    /// Measured where nothing is predicted.
    pub intercept: f64,
    /// Share of the spread that the line explains.
    pub r_squared: f64,
    /// Whether plans are in the right order, at least.
    pub spearman: f64,
    /// Mean of |predicted - measured| / |measured|, over plans that measured anything.
    pub mean_absolute_error_relative: f64,
    /// Largest distance from the line.
    pub worst_residual: f64,
    /// The plans.
    pub trials: Vec<Trial>,
}

impl Additivity {
    /// Fits a line by least squares; `None` with fewer than three plans, or when all are alike.
    pub fn of(trials: &[Trial]) -> Option<Additivity> {
        let (x, y): (Vec<f64>, Vec<f64>) =
            trials.iter().map(|trial| (trial.predicted, trial.measured)).unzip();
        let n = trials.len() as f64;
        if trials.len() < 3 {
            return None;
        }
        let correlation = pearson(&x, &y)?;
        let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
        let spread =
            |values: &[f64], mean: f64| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let slope = correlation * (spread(&y, mean_y) / spread(&x, mean_x)).sqrt();
        let intercept = mean_y - slope * mean_x;
        let residual = |trial: &Trial| (trial.measured - intercept - slope * trial.predicted).abs();
        let errors: Vec<f64> = trials
            .iter()
            .filter(|trial| trial.measured != 0.0)
            .map(|trial| (trial.predicted - trial.measured).abs() / trial.measured.abs())
            .collect();
        Some(Additivity {
            slope,
            intercept,
            r_squared: correlation * correlation,
            spearman: spearman(&x, &y)?,
            mean_absolute_error_relative: errors.iter().sum::<f64>() / errors.len().max(1) as f64,
            worst_residual: trials.iter().map(residual).fold(0.0, f64::max),
            trials: trials.to_vec(),
        })
    }

    /// Whether the sum is good enough to plan with: R^2 of at least 0.9 and a slope of at most 1.5.
    pub fn holds(&self) -> bool {
        self.r_squared >= 0.9 && self.slope <= 1.5
    }
}

/// Random plans from careful to coarse: plan `i` of `n` keeps a group at its safest with a probability that falls from
/// nine tenths to one tenth; the others take one of their other choices, all alike likely.
pub fn random_plans(problem: &Problem, n: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Pcg64::seed_from_u64(seed);
    let safest = |choices: &[super::problem::Choice]| {
        let by = |a: &usize, b: &usize| {
            choices[*a].totals.sensitivity_nats.total_cmp(&choices[*b].totals.sensitivity_nats)
        };
        (0..choices.len()).min_by(by).unwrap_or(0)
    };
    let mut plan = |index: usize| {
        let careful = 0.9 - 0.8 * index as f64 / n.saturating_sub(1).max(1) as f64;
        let choose = |choices: &Vec<super::problem::Choice>| {
            let safest = safest(choices);
            let others: Vec<usize> = (0..choices.len()).filter(|choice| *choice != safest).collect();
            let is_careful = random.random::<f64>() < careful;
            others.choose(&mut random).copied().filter(|_| !is_careful).unwrap_or(safest)
        };
        problem.groups.iter().map(choose).collect()
    };
    (0..n).map(&mut plan).collect()
}

/// The strategies of a plan, group by group.
pub fn strategies_of(problem: &Problem, strategies: &[Strategy], plan: &[usize]) -> Vec<Strategy> {
    let chosen = problem.groups.iter().zip(plan);
    chosen.map(|(choices, index)| strategies[choices[*index].strategy]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_by_hand() {
        // y = 2 x + 1, without any scatter.
        let trials = [1.0, 2.0, 4.0].map(|predicted| Trial {
            predicted,
            measured: 2.0 * predicted + 1.0,
            measured_ci95: None,
        });
        let fit = Additivity::of(&trials).unwrap();
        // A few roundings in f64.
        assert!((fit.slope - 2.0).abs() < 1e-12 && (fit.intercept - 1.0).abs() < 1e-12);
        assert!((fit.r_squared - 1.0).abs() < 1e-12 && fit.worst_residual < 1e-12 && fit.spearman == 1.0);
        assert!(!fit.holds(), "twice the prediction is no sum");
        // 2/3, 3/5, 5/9.
        assert!((fit.mean_absolute_error_relative - (2.0 / 3.0 + 0.6 + 5.0 / 9.0) / 3.0).abs() < 1e-12);
        assert_eq!(Additivity::of(&trials[..2]), None);
        assert_eq!(Additivity::of(&[trials[0]; 5]), None);
    }
}
