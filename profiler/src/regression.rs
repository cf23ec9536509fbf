//! Regression of a response (joules, seconds) on how often things were run.
//!
//! Each observation ran item `k` so many times, `x[k]`, and cost `y`: `y = b + x . c + error`, with `b` what an
//! observation costs whatever was run, free in sign, and costs `c >= 0`. Observations come in *blocks* (rounds of
//! trials), within which the machine may have been a little slower or warmer altogether.
//!
//! **Conditions.** Where it is known how far the conditions `z` of an observation (its clock, its temperature) were from
//! those that costs are wanted for, `y = (b + x . c)(1 + z . e) + error`: the effects `e` are unknowns like the costs, of
//! either sign. Each is drawn to none by one pseudo-observation of standard deviation 1 in the units of `z`, which the
//! caller chooses so that this says nothing: conditions that hardly vary then leave costs alone instead of being blamed
//! for whatever scatters. What conditions do is told by what ran again under others. What unlike observations are out by
//! would tell it too, if costs added up; but conditions go with what is run: what draws more power is warmer, and what it
//! takes beside the sum of its parts would be taken for the temperature's. So in the equations for the effects all that
//! ran the same has an *offset* of its own, relative, and in those for the costs it has none.
//!
//! **Fit.** Generalised least squares. Errors are proportional to the response, as those of windows of equal length
//! are: the covariance of a block is `diag(s^2 yhat^2) + g^2 yhat yhat^T`, a scatter of each observation and a gain
//! common to the block; `s` and `g` are estimated from the residuals of a first fit. What ran the same scatters alike,
//! and so does all that ran several items beyond the base: its `s` is *moderated* as below, from its own residuals and
//! those of all. Negative costs are excluded by the active-set method of Lawson and Hanson (Solving Least Squares
//! Problems, 1974, chapter 23).
//!
//! **What does not add up.** Observations that ran the same may all lie beside the fit, by as much each time: what they ran
//! costs more or less together than its parts do elsewhere. That is no error of theirs. It does not scatter, so that
//! repeating all of them again would find the same costs, and it does not shrink. An observation's own error is what it
//! lies beside the mean of its equals; where it has none, all of it. Costs are then those that fit best what was run, and
//! intervals tell how well these are known, provided that what was run again was run about as often as its like. What
//! another choice of things to run would have made of a cost stands apart, as its *misfit*.
//!
//! **Intervals.** The wild cluster bootstrap (Cameron, Gelbach and Miller, Bootstrap-based improvements for inference with
//! clustered errors, 2008): each draw keeps what was run and turns the residuals of whole blocks around, each by the toss
//! of a coin, and the fit is repeated. Errors of a block may depend on each other, and blocks may differ in how large they
//! are. Drawing the blocks themselves would leave out now one class and now another where each block has only some of
//! them: with six blocks such intervals came out ten times too wide. A mean comes closer to what it has seen than to the
//! truth, and so does a fit: the mean error of one of `n` blocks is multiplied by `sqrt(n / (n - 1))`, and what one of `m` equals
//! adds to that by `sqrt(m / (m - 1))` (a little more, for the effects), or by `sqrt(N / (N - K))`, of `N` observations with
//! `K` unknowns, where it has none.
//! The scatter of few blocks is itself uncertain: the standard deviation over the draws is multiplied by Student's t at
//! `n - 1` degrees of freedom. All draws are kept, because costs are correlated: the interval of a sum of costs comes from
//! the sums of each draw.
//!
//! After three rounds, a scatter that only the three have told is hardly known at all: t is 4.3, and by luck an interval
//! comes out a tenth as wide as it should. But all trials of all rounds tell of it, as far as they scatter as the fit
//! takes them to do. So the variance is *moderated* (Smyth, Linear models and empirical Bayes methods, 2004):
//! the bootstrap's, at its `n - 1` degrees of freedom, and that of the fit's own model of errors, at up to
//! `MOST_PRIOR_FREEDOM`, are averaged by these, and t is that of both together. Where a trial scatters more than others,
//! its own residuals still say so, the louder the more rounds there are. What whole rounds were out by, only rounds can
//! tell: to the degree that a sum suffers from that, the model adds nothing.

mod errors;
mod normal;

use nalgebra::{DMatrix, DVector};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::statistics::{Summary, t_quantile};
use errors::Errors;
use normal::{Block, Design, Equations};

/// One observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Round of trials.
    pub block: usize,
    /// How often each item was run.
    pub counts: Vec<f64>,
    /// What that cost.
    pub response: f64,
    /// Standard deviation of the response that is known beforehand, from the sensor's own sampling.
    pub sampling_sd: f64,
    /// How far its conditions were from those that costs are stated for, in units in which an effect of 1 is as large as
    /// is to be expected.
    pub conditions: Vec<f64>,
}

/// A fitted regression.
#[derive(Clone, Debug)]
pub struct Regression {
    /// Cost of one run of each item, under the conditions that costs are stated for.
    pub costs: Vec<f64>,
    /// What each condition adds to all costs, relative, per unit.
    pub effects: Vec<f64>,
    /// What an observation costs whatever was run.
    pub intercept: f64,
    /// How far an observation lies beside the fit, relative to its response.
    pub scatter_relative: f64,
    /// Its own error, without what all that ran the same have in common: what is left of the other is how far costs are
    /// from adding up. `None` where nothing ran twice.
    pub scatter_of_equals_relative: Option<f64>,
    /// Scatter of whole blocks, relative.
    pub block_scatter_relative: f64,
    /// Standard error of each cost by the model of errors, which is steadier than the bootstrap.
    pub model_sd: Vec<f64>,
    /// What another choice of things to run might make of each cost, one standard deviation, because they do not add up.
    pub misfit_sd: Vec<f64>,
    /// Condition number of the weighted design, columns scaled to length one: how well the counts tell items apart.
    pub condition_number: f64,
    /// Blocks.
    pub n_blocks: usize,
    /// Observations.
    pub n_observations: usize,
    /// Bootstrap draws of intercept, costs and effects, and the sign that each draw gives the residuals of each block.
    draws: Vec<DVector<f64>>,
    signs: Vec<Vec<f64>>,
    /// Names of the blocks, in the order of the signs.
    blocks: Vec<usize>,
    model: ErrorModel,
}

/// What the fit takes the errors of intercept, costs and effects to be.
#[derive(Clone, Debug)]
struct ErrorModel {
    covariance: DMatrix<f64>,
    /// What the gain of each block may put them out by, one standard deviation each.
    gains: Vec<DVector<f64>>,
    /// Degrees of freedom of the scatter of single observations.
    freedom: f64,
}

/// Beyond this, what rounding leaves of the normal equations (their condition is this squared, against 2^53) tells one
/// item from another, not what was measured.
const WORST_CONDITION: f64 = 1e6;

/// How often the fit is repeated with the errors that the last one told: once more settles it, but effects, which begin
/// at none and are held there as long as all seems to scatter.
const FITS: usize = 3;
const FITS_WITH_CONDITIONS: usize = 6;

/// Most degrees of freedom that the model of errors counts for: as much as four more rounds.
const MOST_PRIOR_FREEDOM: f64 = 4.0;

/// Scatter of observations and of blocks, relative.
#[derive(Clone, Copy)]
struct Scatters {
    within: f64,
    /// Degrees of freedom of that.
    freedom: f64,
    /// Beyond what the scatter within makes of it.
    of_blocks: f64,
    /// All of it.
    between: f64,
}

impl Regression {
    /// Fits observations; `None` when they cannot tell the items apart.
    pub fn fit(observations: &[Observation], n_draws: usize, seed: u64) -> Option<Regression> {
        let n_items = observations.first()?.counts.len();
        let n_conditions = observations.first()?.conditions.len();
        let n_unknowns = 1 + n_items + n_conditions;
        let mut blocks: Vec<usize> = observations.iter().map(|observation| observation.block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let members = |block: &usize| -> Vec<usize> {
            (0..observations.len()).filter(|&index| observations[index].block == *block).collect()
        };
        let members: Vec<Vec<usize>> = blocks.iter().map(members).collect();
        let place = |seen: &Observation| blocks.iter().position(|block| *block == seen.block);
        let places: Vec<usize> = observations.iter().filter_map(place).collect();
        let equals = errors::equals(observations);
        let offsets = errors::offsets(&equals);
        let alike = errors::alike(observations, &equals);
        // First by the responses themselves as the measure of their errors, then by what that fit says.
        let mut fitted: Vec<f64> = observations.iter().map(|observation| observation.response).collect();
        let mut under_stated_conditions = fitted.clone();
        let (mut sd, mut gain_sd) = (vec![1.0; observations.len()], 0.0);
        let mut last = None;
        for _ in 0..if n_conditions > 0 { FITS_WITH_CONDITIONS } else { FITS } {
            let design = Design::of(observations, &under_stated_conditions, &offsets);
            let share = |members: &Vec<usize>| {
                Block::of(members.clone(), observations, &design, &fitted, &sd, gain_sd)
            };
            let shares = members.iter().map(share).collect::<Option<Vec<Block>>>()?;
            let equations = Equations::of(shares, &design)?;
            let solution = equations.solve(&equations.moment)?;
            let (costs, effects) = solution.as_slice().split_at(1 + n_items);
            under_stated_conditions =
                observations.iter().map(|observation| predict(costs, &observation.counts)).collect();
            let pairs = observations.iter().zip(&under_stated_conditions);
            fitted = pairs.map(|(seen, stated)| stated * factor(effects, &seen.conditions)).collect();
            if fitted.iter().chain(&under_stated_conditions).any(|fit| *fit <= 0.0) {
                return None;
            }
            let pairs = observations.iter().zip(&fitted);
            let all: Vec<f64> = pairs.map(|(seen, fit)| (seen.response - fit) / fit).collect();
            let errors = Errors::of(&all, &places, &equals, n_unknowns, n_conditions);
            let scatter = scatters(&errors.own, errors.freedom(), &members);
            sd = errors.sd_within(scatter.within, &alike);
            gain_sd = scatter.of_blocks;
            last = Some((equations, solution, errors, scatter));
        }
        let (equations, solution, errors, scatter) = last?;
        let condition_number = equations.condition_number();
        if condition_number > WORST_CONDITION {
            return None;
        }
        let covariance = equations.covariance();
        let (draws, signs) = draw(&equations, &solution, &errors, &fitted, n_draws, seed);
        let all: Vec<f64> =
            errors.own.iter().zip(&errors.of_equals).map(|(own, common)| own + common).collect();
        let freedom = observations.len() as f64 - n_unknowns as f64;
        let gain =
            |block: &Block| &equations.of_moment * block.moment(|index| fitted[index]) * scatter.between;
        Some(Regression {
            costs: solution.iter().skip(1).take(n_items).copied().collect(),
            effects: solution.iter().skip(1 + n_items).copied().collect(),
            intercept: solution[0],
            scatter_relative: scatters(&all, freedom, &members).within,
            scatter_of_equals_relative: offsets.iter().any(Option::is_some).then_some(scatter.within),
            block_scatter_relative: scatter.of_blocks,
            model_sd: (1..=n_items).map(|index| covariance[(index, index)].max(0.0).sqrt()).collect(),
            misfit_sd: misfit_sd(&equations, &equals, &errors, &fitted, &covariance)
                .into_iter()
                .skip(1)
                .take(n_items)
                .collect(),
            condition_number,
            n_blocks: blocks.len(),
            n_observations: observations.len(),
            draws,
            signs,
            model: ErrorModel {
                gains: equations.blocks.iter().map(gain).collect(),
                covariance,
                freedom: scatter.freedom,
            },
            blocks,
        })
    }

    /// A weighted sum of costs, with `of_intercept` times the intercept.
    pub fn combine(&self, weights: &[f64], of_intercept: f64) -> f64 {
        let costs: f64 = self.costs.iter().zip(weights).map(|(cost, weight)| cost * weight).sum();
        costs + of_intercept * self.intercept
    }

    /// Half width of the 95 % interval of such a sum; `None` with fewer than two blocks.
    pub fn combined_ci95(&self, weights: &[f64], of_intercept: f64) -> Option<f64> {
        let no_effects = std::iter::repeat_n(0.0, self.effects.len());
        let all = [of_intercept].into_iter().chain(weights.iter().copied()).chain(no_effects);
        self.sum_ci95(DVector::from_iterator(1 + weights.len() + self.effects.len(), all))
    }

    /// Half width of the 95 % interval of an effect; `None` with fewer than two blocks.
    pub fn effect_ci95(&self, index: usize) -> Option<f64> {
        let mut all = DVector::zeros(1 + self.costs.len() + self.effects.len());
        all[1 + self.costs.len() + index] = 1.0;
        self.sum_ci95(all)
    }

    fn sum_ci95(&self, weights: DVector<f64>) -> Option<f64> {
        self.interval(Some(&weights), |draw, _| Some(draw.dot(&weights)))
    }

    /// Half width of the 95 % interval of a function of the costs and of something else that was measured in the same
    /// blocks: it sees a weighted sum of costs, and the sign of each block's residuals.
    pub fn ci95_with(
        &self,
        weights: &[f64],
        value: impl Fn(f64, &dyn Fn(usize) -> f64) -> Option<f64>,
    ) -> Option<f64> {
        self.interval(None, |draw, signs| {
            let costs: f64 = draw.iter().skip(1).zip(weights).map(|(cost, weight)| cost * weight).sum();
            let sign =
                |block: usize| self.blocks.iter().position(|&name| name == block).map_or(0.0, |i| signs[i]);
            value(costs, &sign)
        })
    }

    /// Half width of the 95 % interval of a value of each draw; `weights`, of intercept, costs and effects, where it is their
    /// sum.
    fn interval(
        &self,
        weights: Option<&DVector<f64>>,
        value: impl Fn(&DVector<f64>, &[f64]) -> Option<f64>,
    ) -> Option<f64> {
        let n_unknowns = (1 + self.costs.len() + self.effects.len()) as f64;
        let (n, n_seen) = (self.n_blocks as f64, self.n_observations as f64);
        if n < 2.0 || n_seen <= n_unknowns {
            return None;
        }
        let pairs = self.draws.iter().zip(&self.signs);
        let values: Vec<f64> = pairs.filter_map(|(draw, signs)| value(draw, signs)).collect();
        let variance = Summary::of(&values).standard_deviation?.powi(2);
        let (prior, prior_freedom) =
            weights.map_or((0.0, 0.0), |weights| self.model.variance(weights, n - 1.0));
        let freedom = n - 1.0 + prior_freedom;
        let moderated = ((n - 1.0) * variance + prior_freedom * prior) / freedom;
        Some(t_quantile(0.975, freedom) * moderated.sqrt())
    }

    /// What an observation is expected to cost under these conditions.
    pub fn predict(&self, counts: &[f64], conditions: &[f64]) -> f64 {
        self.combine(counts, 1.0) * self.factor(conditions)
    }

    /// What these conditions multiply costs by.
    pub fn factor(&self, conditions: &[f64]) -> f64 {
        factor(&self.effects, conditions)
    }
}

impl ErrorModel {
    /// Variance of a weighted sum, and the degrees of freedom by which it is known better than from `of_blocks` of blocks
    /// (Satterthwaite's approximation for a sum of two variances).
    fn variance(&self, weights: &DVector<f64>, of_blocks: f64) -> (f64, f64) {
        let all = weights.dot(&(&self.covariance * weights)).max(0.0);
        let gains: f64 = self.gains.iter().map(|gain| gain.dot(weights).powi(2)).sum();
        let freedom = (all + gains).powi(2) / (all.powi(2) / self.freedom + gains.powi(2) / of_blocks);
        if freedom.is_finite() {
            (all, (freedom - of_blocks).clamp(0.0, MOST_PRIOR_FREEDOM))
        } else {
            (all, 0.0)
        }
    }
}

fn predict(intercept_and_costs: &[f64], counts: &[f64]) -> f64 {
    let costs = intercept_and_costs.iter().skip(1);
    intercept_and_costs[0] + counts.iter().zip(costs).map(|(count, cost)| count * cost).sum::<f64>()
}

/// What conditions multiply costs by.
fn factor(effects: &[f64], conditions: &[f64]) -> f64 {
    1.0 + effects.iter().zip(conditions).map(|(effect, condition)| effect * condition).sum::<f64>()
}

/// Relative scatter of single observations within their block, and of whole blocks, from errors of so many degrees of
/// freedom.
fn scatters(errors: &[f64], freedom: f64, blocks: &[Vec<usize>]) -> Scatters {
    let of_blocks: Vec<Vec<f64>> =
        blocks.iter().map(|members| members.iter().map(|&member| errors[member]).collect()).collect();
    let means: Vec<f64> = of_blocks.iter().map(|errors| Summary::of(errors).mean).collect();
    let within: f64 = of_blocks
        .iter()
        .zip(&means)
        .flat_map(|(errors, mean)| errors.iter().map(move |error| (error - mean).powi(2)))
        .sum();
    let n_blocks = blocks.len() as f64;
    // What has been fitted has taken its share of what would tell of a block's mean, and these theirs of the scatter.
    let of_mean = n_blocks / freedom.max(1.0);
    let freedom = (freedom - n_blocks + 1.0).max(1.0);
    let variance = within / freedom;
    let between = Summary::of(&means).standard_deviation.map_or(0.0, |sd| sd * sd);
    let block_variance = (between - variance * of_mean).max(0.0);
    // A perfect fit leaves no scatter; some is needed to weigh with.
    Scatters {
        within: variance.sqrt().max(1e-9),
        freedom,
        of_blocks: block_variance.sqrt(),
        between: between.sqrt(),
    }
}

/// What intercept, costs and effects are put out by, one standard deviation, by what equals have in common, if that were by
/// chance (White, 1980), less what their own errors make of it, as `covariance` tells.
fn misfit_sd(
    equations: &Equations,
    equals: &[usize],
    errors: &Errors,
    fitted: &[f64],
    covariance: &DMatrix<f64>,
) -> Vec<f64> {
    let mut variances = DVector::zeros(covariance.nrows());
    for first in (0..equals.len()).filter(|&index| equals[index] == index) {
        let common =
            |index: usize| if equals[index] == first { errors.of_equals[index] * fitted[index] } else { 0.0 };
        let mut moment = DVector::zeros(equations.moment.len());
        equations.blocks.iter().for_each(|block| moment += block.moment(common));
        let moved = &equations.of_moment * moment;
        variances += moved.map(|moved: f64| moved * moved);
    }
    let own = covariance.diagonal();
    variances.iter().zip(&own).map(|(variance, own): (&f64, &f64)| (variance - own).max(0.0).sqrt()).collect()
}

/// Draws with the errors of blocks turned around, and the signs of each.
fn draw(
    equations: &Equations,
    solution: &DVector<f64>,
    errors: &Errors,
    fitted: &[f64],
    n_draws: usize,
    seed: u64,
) -> (Vec<DVector<f64>>, Vec<Vec<f64>>) {
    let mut random = Pcg64::seed_from_u64(seed);
    let expected = equations.expected(solution);
    let error = |index: usize| errors.inflated[index] * fitted[index];
    let moments: Vec<DVector<f64>> = equations.blocks.iter().map(|block| block.moment(error)).collect();
    let mut draws = Vec::with_capacity(n_draws);
    let mut drawn = Vec::with_capacity(n_draws);
    let mut sign = || if random.random::<bool>() { 1.0 } else { -1.0 };
    for _ in 0..n_draws {
        let signs: Vec<f64> = moments.iter().map(|_| sign()).collect();
        let mut moment = &expected + equations.pseudo_errors.map(|error| error * sign());
        moments.iter().zip(&signs).for_each(|(of_block, sign)| moment += of_block * *sign);
        if let Some(solution) = equations.solve(&moment) {
            draws.push(solution);
            drawn.push(signs);
        }
    }
    (draws, drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal_value(random: &mut Pcg64) -> f64 {
        let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// An observation of which nothing is known but what it ran and cost.
    fn observation(block: usize, counts: Vec<f64>, response: f64) -> Observation {
        Observation { block, counts, response, sampling_sd: 0.0, conditions: Vec::new() }
    }

    /// Five rounds, each with every item once more on top of a base, and two mixtures.
    fn observations(costs: &[f64], intercept: f64, scatter: f64, gain: f64, seed: u64) -> Vec<Observation> {
        let mut random = Pcg64::seed_from_u64(seed);
        let base = [4.0, 4.0, 1.0];
        let mut observations = Vec::new();
        for block in 0..5 {
            let gain = 1.0 + gain * normal_value(&mut random);
            let extra = [[0., 0., 0.], [4., 0., 0.], [0., 8., 0.], [0., 0., 3.], [4., 8., 0.], [0., 4., 3.]];
            for extra in extra {
                let counts: Vec<f64> = base.iter().zip(extra).map(|(base, extra)| base + extra).collect();
                let truth: f64 = intercept + counts.iter().zip(costs).map(|(n, cost)| n * cost).sum::<f64>();
                let response = truth * gain * (1.0 + scatter * normal_value(&mut random));
                observations.push(observation(block, counts, response));
            }
        }
        observations
    }

    #[test]
    fn without_noise_the_costs_come_out_exactly() {
        let fit = Regression::fit(&observations(&[3.0, 0.5, 2.0], 0.25, 0.0, 0.0, 1), 50, 1).unwrap();
        for (cost, truth) in fit.costs.iter().zip([3.0, 0.5, 2.0]) {
            // A condition number of some ten over 2^-53.
            assert!((cost / truth - 1.0).abs() < 1e-9, "{cost}");
        }
        assert!((fit.intercept - 0.25).abs() < 1e-9);
        assert!(fit.condition_number > 1.0 && fit.condition_number < 100.0);
        assert!((fit.predict(&[1.0, 1.0, 1.0], &[]) - 5.75).abs() < 1e-9);
    }

    /// Counts the costs whose intervals hold the truth.
    fn count_held(fit: &Regression, costs: &[f64; 3], held: &mut [usize; 3]) {
        for k in 0..3 {
            let mut weights = [0.0; 3];
            weights[k] = 1.0;
            let ci95 = fit.combined_ci95(&weights, 0.0).unwrap();
            held[k] += usize::from((fit.costs[k] - costs[k]).abs() <= ci95);
        }
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let costs = [3.0, 0.5, 2.0];
        let (mut held, mut sums_held, runs) = ([0; 3], 0, 2000);
        for seed in 0..runs {
            let fit = Regression::fit(&observations(&costs, 0.25, 0.003, 0.005, seed), 200, seed).unwrap();
            count_held(&fit, &costs, &mut held);
            let ci95 = fit.combined_ci95(&[4.0, 4.0, 1.0], 0.0).unwrap();
            sums_held += usize::from((fit.combine(&[4.0, 4.0, 1.0], 0.0) - 16.0).abs() <= ci95);
        }
        // 95 % of 2000 is 1900, its standard deviation 9.7; the standard deviation of 200 draws is itself known to 5 %,
        // which costs up to half a percentage point. Four standard deviations and that.
        for held in held.into_iter().chain([sums_held]) {
            assert!((1900 - 39 - 10..=1900 + 39 + 10).contains(&held), "{held} of {runs}");
        }
    }

    /// As [`observations`], at clocks that wander by 1.5 % and do `effect` times that to all costs, and at one temperature.
    fn at_many_clocks(costs: &[f64], effect: f64, seed: u64) -> Vec<Observation> {
        let mut random = Pcg64::seed_from_u64(!seed);
        let mut observations = observations(costs, 0.25, 0.003, 0.005, seed);
        for observation in &mut observations {
            let clock = 0.015 * normal_value(&mut random);
            observation.conditions = vec![clock, 0.0];
            observation.response *= 1.0 + effect * clock;
        }
        observations
    }

    #[test]
    fn what_does_not_add_up_is_told_from_scatter() {
        let (mut scatter, mut of_equals, runs) = (0.0, 0.0, 200);
        let (mut misfit, mut none) = ([0.0; 3], [0.0; 3]);
        let add = |sums: &mut [f64; 3], fit: &Regression| {
            let relative = fit.misfit_sd.iter().zip(&fit.model_sd).map(|(misfit_sd, sd)| misfit_sd / sd);
            sums.iter_mut().zip(relative).for_each(|(sum, relative)| *sum += relative / runs as f64);
        };
        for seed in 0..runs {
            let mut seen = observations(&[3.0, 0.5, 2.0], 0.25, 0.003, 0.005, seed);
            add(&mut none, &Regression::fit(&seen, 0, seed).unwrap());
            // Both second and third item behind the program are 2 % dearer together than one by one.
            seen.iter_mut()
                .filter(|seen| seen.counts == [4.0, 8.0, 4.0])
                .for_each(|seen| seen.response *= 1.02);
            let fit = Regression::fit(&seen, 0, seed).unwrap();
            add(&mut misfit, &fit);
            scatter += fit.scatter_relative / runs as f64;
            of_equals += fit.scatter_of_equals_relative.unwrap() / runs as f64;
        }
        // Twenty degrees of freedom each, two hundred times: known to 1.1 %, four times that.
        assert!((of_equals / 0.003 - 1.0).abs() < 0.05, "{of_equals}");
        assert!(scatter > 2.0 * of_equals, "{scatter}");
        // The two that do not add up have a misfit well beyond their intervals, and none has where all do.
        assert!(misfit[1] > 2.0 && misfit[2] > 2.0, "{misfit:?}");
        assert!(none.iter().all(|relative| *relative < 0.1), "{none:?}");
        // Nothing ran twice in one round.
        let seen = observations(&[3.0, 0.5, 2.0], 0.25, 0.003, 0.005, 1);
        let fit = Regression::fit(&seen[..6], 0, 1).unwrap();
        assert_eq!(fit.scatter_of_equals_relative, None);
    }

    #[test]
    fn conditions_are_told_from_costs() {
        let costs = [3.0, 0.5, 2.0];
        let (mut held, mut effects_held, runs) = ([0; 3], 0, 1000);
        let (mut known, mut unknown) = (0.0, 0.0);
        for seed in 0..runs {
            let mut seen = at_many_clocks(&costs, 0.8, seed);
            let fit = Regression::fit(&seen, 200, seed).unwrap();
            count_held(&fit, &costs, &mut held);
            effects_held += usize::from((fit.effects[0] - 0.8).abs() <= fit.effect_ci95(0).unwrap());
            // What never varied is not blamed for anything.
            assert_eq!(fit.effects[1], 0.0);
            known += fit.scatter_relative;
            seen.iter_mut().for_each(|observation| observation.conditions.clear());
            unknown += Regression::fit(&seen, 0, seed).unwrap().scatter_relative;
        }
        // As above, with 950 of 1000 and a standard deviation of 6.9.
        for held in held.into_iter().chain([effects_held]) {
            assert!(held >= 950 - 28 - 5, "{held} of {runs}");
        }
        // What was not known made a scatter of 1.2 % of 0.3 %.
        assert!((known / runs as f64 / 0.003 - 1.0).abs() < 0.1, "{}", known / runs as f64);
        assert!(
            (unknown / runs as f64 / 0.003_f64.hypot(0.012) - 1.0).abs() < 0.1,
            "{}",
            unknown / runs as f64
        );
    }

    #[test]
    fn what_conditions_do_is_told_by_what_ran_the_same() {
        let (mut effects, mut held, runs) = (0.0, 0, 200);
        for seed in 0..runs {
            let mut random = Pcg64::seed_from_u64(!seed);
            let mut seen = observations(&[3.0, 0.5, 2.0], 0.25, 0.003, 0.0, seed);
            for seen in &mut seen {
                // What runs most is 1 % dearer than its parts, and at conditions of its own.
                let is_large = seen.counts == [4.0, 8.0, 4.0] || seen.counts == [8.0, 12.0, 1.0];
                let condition = 0.01 * normal_value(&mut random) + if is_large { 0.02 } else { 0.0 };
                seen.conditions = vec![condition];
                seen.response *= (1.0 + 0.8 * condition) * if is_large { 1.01 } else { 1.0 };
            }
            let fit = Regression::fit(&seen, 200, seed).unwrap();
            effects += fit.effects[0] / runs as f64;
            held += usize::from((fit.effects[0] - 0.8).abs() <= fit.effect_ci95(0).unwrap());
        }
        // Without offsets it comes out at 1.0. One is known to 0.003 / (0.01 sqrt(24)) = 0.06, their mean to 0.004; four of
        // these.
        assert!((effects - 0.8).abs() < 0.017, "{effects}");
        // Of 200, 190 are to be held, with a standard deviation of 3.1; four of these.
        assert!(held >= 190 - 12, "{held} of {runs}");
    }

    #[test]
    fn what_scatters_less_counts_for_more() {
        let (mut squares, mut squares_alike, runs) = (0.0, 0.0, 200);
        for seed in 0..runs {
            let mut random = Pcg64::seed_from_u64(!seed);
            let costs = [3.0, 0.5, 2.0];
            let mut seen = observations(&costs, 0.25, 0.003, 0.0, seed);
            let mut later = observations(&costs, 0.25, 0.003, 0.0, seed + runs);
            later.iter_mut().for_each(|seen| seen.block += 5);
            seen.append(&mut later);
            // Trials of several items scatter ten times as much.
            for seen in &mut seen {
                if seen.counts[1] > 4.0 && seen.counts != [4.0, 12.0, 1.0] {
                    seen.response *= 1.0 + 0.03 * normal_value(&mut random);
                }
            }
            let error = |seen: &[Observation]| Regression::fit(seen, 0, seed).unwrap().costs[1] - costs[1];
            squares += error(&seen).powi(2) / runs as f64;
            // Counts that differ in the seventh digit: nothing ran the same to tell how much it scatters.
            seen.iter_mut().enumerate().for_each(|(index, seen)| seen.counts[0] += 1e-7 * index as f64);
            squares_alike += error(&seen).powi(2) / runs as f64;
        }
        // All together scatter by 1.75 %. With eight degrees of freedom of that and nine of their own, trials are taken to
        // scatter by 1.2 and 2.5 % and count 4 to 1. It comes out at 0.37, which 200 runs tell to a seventh.
        assert!(squares < 0.5 * squares_alike, "{squares} {squares_alike}");
    }

    #[test]
    fn conditions_that_hardly_vary_leave_costs_alone() {
        let mut seen = observations(&[3.0, 0.5, 2.0], 0.25, 0.003, 0.005, 7);
        let without = Regression::fit(&seen, 0, 7).unwrap();
        let mut random = Pcg64::seed_from_u64(8);
        seen.iter_mut()
            .for_each(|observation| observation.conditions = vec![1e-4 * normal_value(&mut random)]);
        let with = Regression::fit(&seen, 0, 7).unwrap();
        // An effect of a few times its pseudo-observation's 1, at 1e-4.
        for (with, without) in with.costs.iter().zip(&without.costs) {
            assert!((with / without - 1.0).abs() < 5e-4, "{with} {without}");
        }
    }

    /// How many of 2000 runs of so many rounds have the truth in their intervals: of each cost, and of a sum. Trials of each
    /// item have a scatter of their own.
    fn held(n_blocks: usize, costs: &[f64; 3], scatters: [f64; 3], gain: f64) -> [usize; 4] {
        let mut held = [0; 4];
        for seed in 0..2000 {
            let mut random = Pcg64::seed_from_u64(seed);
            let base = [4.0, 4.0, 1.0];
            let mut observations = Vec::new();
            for block in 0..n_blocks {
                let gain = 1.0 + gain * normal_value(&mut random);
                let extra = [
                    ([0., 0., 0.], 0),
                    ([4., 0., 0.], 0),
                    ([0., 8., 0.], 1),
                    ([0., 0., 3.], 2),
                    ([4., 8., 0.], 0),
                    ([0., 4., 3.], 2),
                ];
                for (extra, scatter) in extra {
                    let counts: Vec<f64> = base.iter().zip(extra).map(|(base, extra)| base + extra).collect();
                    let truth: f64 = 0.25 + counts.iter().zip(costs).map(|(n, cost)| n * cost).sum::<f64>();
                    let response = truth * gain * (1.0 + scatters[scatter] * normal_value(&mut random));
                    observations.push(observation(block, counts, response));
                }
            }
            let fit = Regression::fit(&observations, 200, seed).unwrap();
            for (k, weights) in [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.], [4., 4., 1.]].iter().enumerate() {
                let truth: f64 = weights.iter().zip(costs).map(|(n, cost)| n * cost).sum();
                let ci95 = fit.combined_ci95(weights, 0.0).unwrap();
                held[k] += usize::from((fit.combine(weights, 0.0) - truth).abs() <= ci95);
            }
        }
        held
    }

    #[test]
    fn intervals_hold_the_truth_after_few_rounds() {
        for n_blocks in [2, 3, 8] {
            for gain in [0.0, 0.005] {
                let alike = held(n_blocks, &[3.0, 0.5, 2.0], [0.003; 3], gain);
                // As above, but for what Satterthwaite's approximation leaves: 1 %.
                assert!(alike.iter().all(|held| *held >= 1900 - 39 - 10 - 20), "{n_blocks}: {alike:?}");
                // Trials of one item scatter three times as much as the others, which no protocol asks for: what all
                // trials tell of it is too little, and nine in ten is what is left, less four standard deviations of
                // such a count, 13 each. The others' intervals are too wide.
                let unlike = held(n_blocks, &[3.0, 0.5, 2.0], [0.003, 0.003, 0.009], gain);
                assert!(unlike.iter().all(|held| *held >= 1800 - 54), "{n_blocks}: {unlike:?}");
            }
        }
    }

    #[test]
    fn costs_do_not_go_below_zero_and_the_rest_is_the_best_fit_then() {
        // The second item costs nothing: half of the time, noise would make it negative.
        let mut at_zero = 0;
        for seed in 0..100 {
            let fit = Regression::fit(&observations(&[3.0, 0.0, 2.0], 0.25, 0.01, 0.0, seed), 10, 1).unwrap();
            assert!(fit.costs.iter().all(|cost| *cost >= 0.0));
            at_zero += usize::from(fit.costs[1] == 0.0);
        }
        // 50 of 100, standard deviation 5; four of these.
        assert!((30..=70).contains(&at_zero), "{at_zero}");
    }

    #[test]
    fn the_scatters_are_told_apart() {
        let (mut scatter, mut gain) = (0.0, 0.0);
        for seed in 0..200 {
            let fit = Regression::fit(&observations(&[3.0, 0.5, 2.0], 0.0, 0.004, 0.01, seed), 1, 1).unwrap();
            scatter += fit.scatter_relative.powi(2) / 200.0;
            gain += fit.block_scatter_relative.powi(2) / 200.0;
        }
        // Mean squares over 200 runs with some 20 and 4 degrees of freedom: known to 2 % and 5 %. Four of these, and the
        // truncation at zero of the second.
        assert!((scatter.sqrt() / 0.004 - 1.0).abs() < 0.1, "{}", scatter.sqrt());
        assert!((gain.sqrt() / 0.01 - 1.0).abs() < 0.15, "{}", gain.sqrt());
    }

    #[test]
    fn items_that_always_run_together_cannot_be_told_apart() {
        let together = |count: f64, block| observation(block, vec![count, 2.0 * count], 5.0 * count + 1.0);
        let observations: Vec<_> = (0..8).map(|i| together(f64::from(i) + 1.0, i as usize / 4)).collect();
        let fit = Regression::fit(&observations, 10, 1);
        assert!(fit.is_none());
        assert!(Regression::fit(&[], 10, 1).is_none());
    }
}
