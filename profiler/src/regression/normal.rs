//! Normal equations: all that a fit has to know of blocks of observations, and their solution without negative costs.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::Observation;

/// What a response is made of: a row for each observation, a column for each of the unknowns intercept, costs, effects,
/// offsets.
pub(super) struct Design {
    rows: DMatrix<f64>,
    n_costs: usize,
    n_effects: usize,
}

/// The observations of a block, and their share of the normal equations.
pub(super) struct Block {
    gram: DMatrix<f64>,
    moment: DVector<f64>,
    /// Which they are among all.
    members: Vec<usize>,
    /// What one more of each member's response adds to the moment.
    scores: DMatrix<f64>,
}

/// The normal equations of all blocks together, and of a pseudo-observation of each effect and each offset: none, with a
/// standard deviation of 1, which says nothing of what either may be.
pub(super) struct Equations {
    pub(super) blocks: Vec<Block>,
    pub(super) gram: DMatrix<f64>,
    pub(super) moment: DVector<f64>,
    /// What the error of each unknown's pseudo-observation, one standard deviation, adds to the moment; 0 of intercept and
    /// costs, which have none.
    pub(super) pseudo_errors: DVector<f64>,
    /// What a moment makes of intercept, costs and effects, costs of either sign.
    pub(super) of_moment: DMatrix<f64>,
    /// The intercept among them.
    n_costs: usize,
}

impl Design {
    /// `stated` is what observations are taken to cost under the conditions that costs are stated for; `offsets` the place
    /// of what each of them ran, where its like ran again. Without conditions there is nothing for offsets to tell.
    pub(super) fn of(observations: &[Observation], stated: &[f64], offsets: &[Option<usize>]) -> Design {
        let n_items = observations.first().map_or(0, |seen| seen.counts.len());
        let n_effects = observations.first().map_or(0, |seen| seen.conditions.len());
        let places = if n_effects > 0 { offsets } else { &[] };
        let n_offsets = places.iter().flatten().max().map_or(0, |last| last + 1);
        let entry = |i: usize, j: usize| match j.checked_sub(1) {
            None => 1.0,
            Some(item) if item < n_items => observations[i].counts[item],
            Some(other) if other < n_items + n_effects => {
                stated[i] * observations[i].conditions[other - n_items]
            }
            Some(other) if places[i] == Some(other - n_items - n_effects) => stated[i],
            Some(_) => 0.0,
        };
        let n_unknowns = 1 + n_items + n_effects + n_offsets;
        let rows = DMatrix::from_fn(observations.len(), n_unknowns, entry);
        Design { rows, n_costs: 1 + n_items, n_effects }
    }
}

impl Block {
    /// The block whitened by its covariance: `fitted` is what all observations are taken to cost, `sd` their own scatter
    /// and `gain_sd` that of blocks, both relative.
    pub(super) fn of(
        members: Vec<usize>,
        observations: &[Observation],
        design: &Design,
        fitted: &[f64],
        sd: &[f64],
        gain_sd: f64,
    ) -> Option<Block> {
        let n = members.len();
        let fitted: Vec<f64> = members.iter().map(|&member| fitted[member]).collect();
        let seen = |row: usize| &observations[members[row]];
        let mut covariance = DMatrix::zeros(n, n);
        for i in 0..n {
            for j in 0..n {
                covariance[(i, j)] = gain_sd.powi(2) * fitted[i] * fitted[j];
            }
            covariance[(i, i)] += (sd[members[i]] * fitted[i]).powi(2).max(seen(i).sampling_sd.powi(2));
        }
        let x = design.rows.select_rows(&members);
        let scores = covariance.cholesky()?.solve(&x).transpose();
        let y = DVector::from_fn(n, |i, _| seen(i).response);
        Some(Block { gram: &scores * x, moment: &scores * y, members, scores })
    }

    /// What so much more of each observation, of all blocks, adds to this block's moment.
    pub(super) fn moment(&self, more: impl Fn(usize) -> f64) -> DVector<f64> {
        &self.scores
            * DVector::from_iterator(self.members.len(), self.members.iter().map(|&member| more(member)))
    }
}

impl Equations {
    pub(super) fn of(blocks: Vec<Block>, design: &Design) -> Option<Equations> {
        let (n_costs, end) = (design.n_costs, design.n_costs + design.n_effects);
        let size = design.rows.ncols();
        let pseudo_errors = DVector::from_fn(size, |place, _| if place < n_costs { 0.0 } else { 1.0 });
        let mut gram = DMatrix::from_diagonal(&pseudo_errors);
        let mut moment = DVector::zeros(size);
        for block in &blocks {
            gram += &block.gram;
            moment += &block.moment;
        }
        // Effects are those that fit best where what ran again may lie anywhere, costs those that fit best with these effects
        // and without offsets.
        let inverse = gram.clone().cholesky()?.inverse();
        let of_effects = inverse.rows(n_costs, design.n_effects);
        let from_effects = gram.view((0, n_costs), (n_costs, design.n_effects));
        let of_costs = gram.view((0, 0), (n_costs, n_costs)).into_owned().cholesky()?;
        let mut of_moment = DMatrix::zeros(end, size);
        of_moment
            .rows_mut(0, n_costs)
            .copy_from(&of_costs.solve(&(DMatrix::identity(n_costs, size) - from_effects * of_effects)));
        of_moment.rows_mut(n_costs, design.n_effects).copy_from(&of_effects);
        Some(Equations { blocks, gram, moment, pseudo_errors, of_moment, n_costs })
    }

    /// The moment that intercept, costs and effects would have, without offsets.
    pub(super) fn expected(&self, solution: &DVector<f64>) -> DVector<f64> {
        self.gram.columns(0, solution.len()) * solution
    }

    /// What the errors of observations make of the covariance of intercept, costs and effects.
    pub(super) fn covariance(&self) -> DMatrix<f64> {
        &self.of_moment * &self.gram * self.of_moment.transpose()
    }

    /// Intercept, costs and effects that such a moment makes, costs kept from going below zero.
    pub(super) fn solve(&self, moment: &DVector<f64>) -> Option<DVector<f64>> {
        let mut solution = &self.of_moment * moment;
        let n_costs = self.n_costs;
        // Without the constraint it usually holds by itself.
        if solution.iter().take(n_costs).skip(1).any(|cost| *cost < 0.0) {
            let effects = solution.rows(n_costs, solution.len() - n_costs).into_owned();
            let from_effects = self.gram.view((0, n_costs), (n_costs, effects.len())) * effects;
            let given = NonNegative {
                gram: self.gram.view((0, 0), (n_costs, n_costs)).into_owned(),
                moment: moment.rows(0, n_costs) - from_effects,
            };
            solution.rows_mut(0, n_costs).copy_from(&given.solve()?);
        }
        Some(solution)
    }

    /// How badly intercept, costs and effects are told apart: the square root of the gram's, columns scaled to length one.
    pub(super) fn condition_number(&self) -> f64 {
        let size = self.of_moment.nrows();
        let gram = self.gram.view((0, 0), (size, size));
        let lengths: Vec<f64> = gram.diagonal().iter().map(|square| square.sqrt()).collect();
        let scaled = DMatrix::from_fn(size, size, |i, j| gram[(i, j)] / (lengths[i] * lengths[j]));
        let values = SymmetricEigen::new(scaled).eigenvalues;
        let (least, most) = (values.min(), values.max());
        if least > 0.0 { (most / least).sqrt() } else { f64::INFINITY }
    }
}

/// Least squares in the intercept, of either sign, and costs not below zero.
struct NonNegative {
    gram: DMatrix<f64>,
    moment: DVector<f64>,
}

impl NonNegative {
    /// The normal equations are all that Lawson and Hanson's method needs: `w = A^T (b - A x)` is `moment - gram x`.
    fn solve(&self) -> Option<DVector<f64>> {
        let size = self.moment.len();
        let costs = 1..size;
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
}
