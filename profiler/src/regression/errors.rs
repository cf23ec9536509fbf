//! What observations are out by: each for itself, all of a block, and all that ran the same.

use super::Observation;

/// How often the means of blocks and of equals are taken in turns: what one has taken is out of the other's way, and what
/// is left to move falls with each turn.
const TURNS: usize = 10;

/// Errors of a fit, relative to it.
pub(super) struct Errors {
    /// Of each observation, that of its block included, but not what its equals have in common.
    pub(super) own: Vec<f64>,
    /// As large as these stand for: a mean, and a fit, come closer to what they have seen than to the truth.
    pub(super) inflated: Vec<f64>,
    /// Of its equals, on average: the same whenever they are run. 0 where it has none.
    pub(super) of_equals: Vec<f64>,
    /// Degrees of freedom of the own errors, those of blocks included.
    pub(super) freedom: f64,
}

/// For each observation the first that ran the same.
pub(super) fn equals(observations: &[Observation]) -> Vec<usize> {
    let first = |(index, observation): (usize, &Observation)| {
        observations[..index].iter().position(|earlier| earlier.counts == observation.counts).unwrap_or(index)
    };
    observations.iter().enumerate().map(first).collect()
}

impl Errors {
    /// From the whole errors of observations, each with the place of its block and of the first that ran the same.
    pub(super) fn of(all: &[f64], blocks: &[usize], equals: &[usize], n_unknowns: usize) -> Errors {
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
        let (mut own, mut inflated, mut freedom) = (Vec::new(), Vec::new(), 0.0);
        for (index, all) in all.iter().enumerate() {
            let squared =
                if n_equals[index] > 1.0 { n_equals[index] / (n_equals[index] - 1.0) } else { of_fit };
            let error = all - of_equals[index];
            own.push(error);
            inflated.push(of_blocks[index] * of_block.sqrt() + (error - of_blocks[index]) * squared.sqrt());
            freedom += 1.0 / squared;
        }
        Errors { own, inflated, of_equals, freedom }
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
