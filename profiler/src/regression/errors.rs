//! What observations are out by: each for itself, all of a block, and all that ran the same.

use super::Observation;

/// How often the means of blocks and of equals are taken in turns: what one has taken is out of the other's way, and what
/// is left to move falls with each turn.
const TURNS: usize = 10;

/// Degrees of freedom that the scatter of all observations counts for beside that of equals.
const FREEDOM_OF_ALL: f64 = 8.0;

/// Errors of a fit, relative to it.
pub(super) struct Errors {
    /// Of each observation, that of its block included, but not what its equals have in common.
    pub(super) own: Vec<f64>,
    /// As large as these stand for: a mean, and a fit, come closer to what they have seen than to the truth.
    pub(super) inflated: Vec<f64>,
    /// Of its equals, on average: the same whenever they are run. 0 where it has none.
    pub(super) of_equals: Vec<f64>,
    /// The own errors without those of blocks.
    beside_block: Vec<f64>,
    /// Degrees of freedom of each own error.
    freedoms: Vec<f64>,
}

/// For each observation the first that ran the same.
pub(super) fn equals(observations: &[Observation]) -> Vec<usize> {
    let first = |(index, observation): (usize, &Observation)| {
        observations[..index].iter().position(|earlier| earlier.counts == observation.counts).unwrap_or(index)
    };
    observations.iter().enumerate().map(first).collect()
}

/// For each observation the first that is taken to scatter as much: of what runs no more than one item beyond the least, the
/// first that ran the same; of what runs several, the first that does. Weighed one by one, some by luck more than others,
/// what these lie beside the fit by would move costs.
pub(super) fn alike(observations: &[Observation], equals: &[usize]) -> Vec<usize> {
    let n_items = observations.first().map_or(0, |seen| seen.counts.len());
    let least: Vec<f64> = (0..n_items)
        .map(|item| observations.iter().map(|seen| seen.counts[item]).fold(f64::INFINITY, f64::min))
        .collect();
    let runs_several = |seen: &Observation| {
        seen.counts.iter().zip(&least).filter(|(count, least)| count > least).count() > 1
    };
    let first = observations.iter().position(runs_several);
    let pairs = observations.iter().zip(equals);
    pairs.map(|(seen, equal)| first.filter(|_| runs_several(seen)).unwrap_or(*equal)).collect()
}

/// The place of what each observation ran among all that ran more than once; none where it ran once.
pub(super) fn offsets(equals: &[usize]) -> Vec<Option<usize>> {
    let n_equals = means(&vec![1.0; equals.len()], equals).1;
    let repeated: Vec<usize> =
        (0..equals.len()).filter(|&index| equals[index] == index && n_equals[index] > 1.0).collect();
    equals.iter().map(|first| repeated.iter().position(|index| index == first)).collect()
}

impl Errors {
    /// From the whole errors of observations, each with the place of its block and of the first that ran the same; some of
    /// the unknowns of the fit are effects.
    pub(super) fn of(
        all: &[f64],
        blocks: &[usize],
        equals: &[usize],
        n_unknowns: usize,
        n_effects: usize,
    ) -> Errors {
        let n_equals = means(&vec![1.0; all.len()], equals).1;
        let mut of_equals = vec![0.0; all.len()];
        let mut of_blocks = vec![0.0; all.len()];
        for _ in 0..TURNS {
            let own: Vec<f64> = all.iter().zip(&of_equals).map(|(all, equals)| all - equals).collect();
            of_blocks = means(&own, blocks).0;
            let within: Vec<f64> = all.iter().zip(&of_blocks).map(|(all, block)| all - block).collect();
            of_equals = means(&within, equals).0;
            of_equals.iter_mut().zip(&n_equals).filter(|(_, n)| **n < 2.0).for_each(|(mean, _)| *mean = 0.0);
        }
        let (n, n_blocks) = (all.len() as f64, blocks.iter().max().map_or(0.0, |last| *last as f64 + 1.0));
        let of_fit = n / (n - n_unknowns as f64);
        let of_block = if n_blocks > 1.0 { n_blocks / (n_blocks - 1.0) } else { 1.0 };
        // Effects come close to what their equals have seen, too.
        let among_equals = n_equals.iter().map(|n| 1.0 - 1.0 / n).sum::<f64>() - (n_blocks - 1.0);
        let left = (among_equals - n_effects as f64).max(1.0);
        let of_effects = (among_equals / left).max(1.0);
        let (mut own, mut inflated, mut freedoms) = (Vec::new(), Vec::new(), Vec::new());
        for (index, all) in all.iter().enumerate() {
            let n = n_equals[index];
            let squared = if n > 1.0 { n / (n - 1.0) * of_effects } else { of_fit };
            let error = all - of_equals[index];
            own.push(error);
            inflated.push(of_blocks[index] * of_block.sqrt() + (error - of_blocks[index]) * squared.sqrt());
            freedoms.push(1.0 / squared);
        }
        let beside_block = own.iter().zip(&of_blocks).map(|(own, block)| own - block).collect();
        Errors { own, inflated, of_equals, beside_block, freedoms }
    }

    /// Degrees of freedom of all own errors, those of blocks included.
    pub(super) fn freedom(&self) -> f64 {
        self.freedoms.iter().sum()
    }

    /// Standard deviation of each within its block: that of what is alike and that of all, averaged by their degrees of
    /// freedom.
    pub(super) fn sd_within(&self, of_all: f64, alike: &[usize]) -> Vec<f64> {
        let squares: Vec<f64> = self.beside_block.iter().map(|error| error * error).collect();
        let (mean_squares, n_alike) = means(&squares, alike);
        let freedoms = means(&self.freedoms, alike).0;
        let moderated = |((mean, n), freedom): ((f64, f64), f64)| {
            ((FREEDOM_OF_ALL * of_all.powi(2) + n * mean) / (FREEDOM_OF_ALL + n * freedom)).sqrt()
        };
        mean_squares.into_iter().zip(n_alike).zip(freedoms).map(moderated).collect()
    }
}

/// For each value the mean of those in the same place, and how many these are.
fn means(values: &[f64], places: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![(0.0, 0.0); values.len()];
    for (value, &place) in values.iter().zip(places) {
        sums[place] = (sums[place].0 + value, sums[place].1 + 1.0);
    }
    places.iter().map(|&place| (sums[place].0 / sums[place].1, sums[place].1)).unzip()
}
