//! The embedded study: small models side by side, each in several strategies. What does a sentence cost, how often is
//! the answer right, and what does the device need for it?
//!
//! Every trial is a process of its own, because the peak of a process's memory never goes down. This module knows what
//! a trial measures ([`measure()`]) and what trials add up to ([`Study`]); whoever starts the processes hands them over.

mod measure;
mod readout;
mod summary;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

pub use measure::{Measured, measure};
pub use readout::Readout;
pub use summary::{Failure, Row, Study};

/// What one process found out about one model in one strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The model, as the user named it.
    pub model: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Where it ran.
    pub device: String,
    /// False where weights are random: then answers mean nothing, but costs do.
    pub is_trained: bool,
    /// Bytes of the weights as they are kept.
    pub weight_bytes: u64,
    /// The most memory that the process had in RAM.
    pub peak_memory_bytes: Option<u64>,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// The order of trials: each round holds every configuration once, shuffled, so that a machine that warms up or slows
/// down does so to all of them.
pub fn order(configurations: usize, rounds: usize, seed: u64) -> Vec<usize> {
    let mut random = Pcg64::seed_from_u64(seed);
    let round = |_| {
        let mut round: Vec<usize> = (0..configurations).collect();
        round.shuffle(&mut random);
        round
    };
    (0..rounds).flat_map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_holds_every_configuration() {
        let order = order(5, 3, 7);
        let rounds: Vec<Vec<usize>> = order.chunks(5).map(<[usize]>::to_vec).collect();
        assert_ne!(rounds[0], rounds[1]);
        for mut round in rounds {
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
    }
}
