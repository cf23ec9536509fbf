//! Normal equations: all that a fit has to know of a block of observations, and their solution without negative costs.

use std::ops::Range;

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::{Observation, Scatters};

/// Normal equations in the unknowns intercept, costs, effects.
#[derive(Clone)]
pub(super) struct Normal {
    pub(super) gram: DMatrix<f64>,
    pub(super) moment: DVector<f64>,
    /// How many effects there are.
    pub(super) n_effects: usize,
}

/// The observations of a block, and their share of the normal equations.
pub(super) struct Block {
    pub(super) normal: Normal,
    /// Which they are among all.
    members: Vec<usize>,
    /// What one more of each member's response adds to the moment.
    scores: DMatrix<f64>,
}

impl Block {
    /// The block whitened by its covariance: `fitted` is what all observations are taken to cost, `stated` the same under
    /// the conditions that costs are stated for.
    pub(super) fn of(
        members: Vec<usize>,
        observations: &[Observation],
        stated: &[f64],
        fitted: &[f64],
        scatter: Scatters,
    ) -> Option<Block> {
        let n = members.len();
        let first = &observations[*members.first()?];
        let (n_items, n_effects) = (first.counts.len(), first.conditions.len());
        let fitted: Vec<f64> = members.iter().map(|&member| fitted[member]).collect();
        let seen = |row: usize| &observations[members[row]];
        let mut covariance = DMatrix::zeros(n, n);
        for i in 0..n {
            for j in 0..n {
                covariance[(i, j)] = scatter.of_blocks.powi(2) * fitted[i] * fitted[j];
            }
            covariance[(i, i)] += (scatter.within * fitted[i]).powi(2).max(seen(i).sampling_sd.powi(2));
        }
        let x = DMatrix::from_fn(n, 1 + n_items + n_effects, |i, j| match j.checked_sub(1) {
            None => 1.0,
            Some(item) if item < n_items => seen(i).counts[item],
            Some(other) => stated[members[i]] * seen(i).conditions[other - n_items],
        });
        let scores = covariance.cholesky()?.solve(&x).transpose();
        let y = DVector::from_fn(n, |i, _| seen(i).response);
        let normal = Normal { gram: &scores * x, moment: &scores * y, n_effects };
        Some(Block { normal, members, scores })
    }

    /// What so much more of each observation, of all blocks, adds to this block's moment.
    pub(super) fn moment(&self, more: impl Fn(usize) -> f64) -> DVector<f64> {
        &self.scores
            * DVector::from_iterator(self.members.len(), self.members.iter().map(|&member| more(member)))
    }
}

impl Normal {
    /// The places of effects among the unknowns.
    pub(super) fn effects(&self) -> Range<usize> {
        self.moment.len() - self.n_effects..self.moment.len()
    }

    /// Those of all blocks together, and of a pseudo-observation of each effect: none, with standard deviation 1.
    pub(super) fn total(blocks: &[Block]) -> Normal {
        let size = blocks.first().map_or(0, |block| block.normal.moment.len());
        let n_effects = blocks.first().map_or(0, |block| block.normal.n_effects);
        let mut total = Normal { gram: DMatrix::zeros(size, size), moment: DVector::zeros(size), n_effects };
        for place in total.effects() {
            total.gram[(place, place)] = 1.0;
        }
        for Block { normal, .. } in blocks {
            total.gram += &normal.gram;
            total.moment += &normal.moment;
        }
        total
    }

    /// Least squares with costs kept from going below zero.
    ///
    /// The normal equations are all that Lawson and Hanson's method needs: `w = A^T (b - A x)` is `moment - gram x`.
    pub(super) fn solve(&self) -> Option<DVector<f64>> {
        let size = self.moment.len();
        let costs = 1..self.effects().start;
        // Without the constraint it usually holds by itself.
        let free = self.gram.clone().cholesky()?.solve(&self.moment);
        if costs.clone().all(|place| free[place] >= 0.0) {
            return Some(free);
        }
        let scale = self.moment.amax().max(f64::MIN_POSITIVE);
        let mut passive: Vec<bool> = (0..size).map(|place| !costs.contains(&place)).collect();
        let mut x = self.solve_passive(&passive)?;
        // Each turn lowers the sum of squares; the bound only guards against turning in circles by rounding.
        for _ in 0..10 * size {
            let gradient = &self.moment - &self.gram * &x;
            let steepest =
                costs.clone().filter(|&i| !passive[i]).max_by(|&a, &b| gradient[a].total_cmp(&gradient[b]));
            let Some(enter) = steepest.filter(|&i| gradient[i] > 1e-12 * scale) else { break };
            passive[enter] = true;
            loop {
                let candidate = self.solve_passive(&passive)?;
                let worst = costs
                    .clone()
                    .filter(|&i| passive[i] && candidate[i] <= 0.0)
                    .map(|i| (x[i] / (x[i] - candidate[i]), i))
                    .min_by(|a, b| a.0.total_cmp(&b.0));
                let Some((step, leave)) = worst else {
                    x = candidate;
                    break;
                };
                x += (candidate - &x) * step.clamp(0.0, 1.0);
                passive[leave] = false;
                x[leave] = 0.0;
            }
        }
        Some(x)
    }

    /// Least squares in the passive unknowns, the others at zero.
    fn solve_passive(&self, passive: &[bool]) -> Option<DVector<f64>> {
        let chosen: Vec<usize> = (0..passive.len()).filter(|&index| passive[index]).collect();
        let gram = DMatrix::from_fn(chosen.len(), chosen.len(), |i, j| self.gram[(chosen[i], chosen[j])]);
        let moment = DVector::from_fn(chosen.len(), |i, _| self.moment[chosen[i]]);
        let solved = gram.cholesky()?.solve(&moment);
        let mut x = DVector::zeros(passive.len());
        for (place, &index) in chosen.iter().enumerate() {
            x[index] = solved[place];
        }
        Some(x)
    }

    /// How badly the unknowns are told apart: the square root of the gram's, columns scaled to length one.
    pub(super) fn condition_number(&self) -> f64 {
        let gram = &self.gram;
        let lengths: Vec<f64> = gram.diagonal().iter().map(|square| square.sqrt()).collect();
        let scaled =
            DMatrix::from_fn(gram.nrows(), gram.ncols(), |i, j| gram[(i, j)] / (lengths[i] * lengths[j]));
        let values = SymmetricEigen::new(scaled).eigenvalues;
        let (least, most) = (values.min(), values.max());
        if least > 0.0 { (most / least).sqrt() } else { f64::INFINITY }
    }
}
