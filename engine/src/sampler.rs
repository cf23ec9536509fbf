//! From logits to the next token.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most likely token; the first of equals.
    Greedy,
    /// Drawn at random, from the same stream for the same seed on every machine.
    Random {
        /// Logits are divided by this; 1 leaves the model's own distribution.
        temperature: f32,
        /// Only this many of the most likely tokens are kept.
        top_k: Option<usize>,
        /// Only the most likely tokens that together reach this probability are kept (Holtzman et al. 2020).
        top_p: Option<f32>,
        /// Begin of the random stream.
        seed: u64,
    },
}

/// Chooses tokens; keeps its random stream and its scratch memory.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the begin of its stream. A temperature of zero is greedy.
    pub fn new(sampling: Sampling) -> Self {
        let (sampling, seed) = match sampling {
            Sampling::Random { temperature, .. } if temperature <= 0.0 => (Sampling::Greedy, 0),
            Sampling::Random { seed, .. } => (sampling, seed),
            Sampling::Greedy => (sampling, 0),
        };
        Sampler { sampling, random: Pcg64::seed_from_u64(seed), candidates: Vec::new() }
    }

    /// The next token for one row of logits `[vocab_size]`. NaN is never chosen over a number.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        match self.sampling {
            Sampling::Greedy => greedy(logits),
            Sampling::Random { temperature, top_k, top_p, .. } => {
                self.keep_likely(logits, temperature, top_k, top_p);
                self.draw().unwrap_or_else(|| greedy(logits))
            }
        }
    }

    /// Leaves `(weight, token)` of the tokens that may be drawn, most likely first.
    fn keep_likely(&mut self, logits: &[f32], temperature: f32, top_k: Option<usize>, top_p: Option<f32>) {
        let candidates = &mut self.candidates;
        candidates.clear();
        let numbers = logits.iter().zip(0..).filter(|(logit, _)| !logit.is_nan());
        candidates.extend(numbers.map(|(logit, token)| (logit / temperature, token)));
        // Ties go to the smaller token, so that a draw does not depend on the order of sorting.
        let most_likely_first = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if let Some(k) = top_k.filter(|k| (1..candidates.len()).contains(k)) {
            candidates.select_nth_unstable_by(k - 1, most_likely_first);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(most_likely_first);
        let largest = candidates.first().map_or(0.0, |(logit, _)| *logit);
        let mut total = 0.0;
        for (weight, _) in candidates.iter_mut() {
            *weight = (*weight - largest).exp();
            total += f64::from(*weight);
        }
        if let Some(p) = top_p {
            let mut reached = 0.0;
            let kept = candidates.iter().take_while(|(weight, _)| {
                let is_kept = reached < f64::from(p) * total;
                reached += f64::from(*weight);
                is_kept
            });
            let kept = kept.count().max(1);
            candidates.truncate(kept);
        }
    }

    fn draw(&mut self) -> Option<u32> {
        let total: f64 = self.candidates.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let mut left = self.random.random::<f64>() * total;
        for (weight, token) in &self.candidates {
            left -= f64::from(*weight);
            if left < 0.0 {
                return Some(*token);
            }
        }
        // Rounding can leave a sliver behind the last candidate.
        self.candidates.last().map(|(_, token)| *token)
    }
}

/// Index of the largest logit; the first of equals.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut largest = f32::NEG_INFINITY;
    for (token, logit) in (0..).zip(logits) {
        if *logit > largest {
            (best, largest) = (token, *logit);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(temperature: f32, top_k: Option<usize>, top_p: Option<f32>, seed: u64) -> Sampler {
        Sampler::new(Sampling::Random { temperature, top_k, top_p, seed })
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_never_nan() {
        assert_eq!(greedy(&[0.0, 2.0, f32::NAN, 2.0]), 1);
        assert_eq!(random(0.0, None, None, 1).sample(&[0.0, 1.0]), 1);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
        let draw = |seed| {
            let mut sampler = random(1.0, None, Some(0.9), seed);
            (0..100).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    /// Frequencies of 20,000 draws against the softmax. Each count is binomial, so its standard deviation is at most
    /// sqrt(n p (1 - p)); 5 of those is exceeded once in 1.7 million draws of this test's 4 counts.
    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        let logits = [1.0f32, 0.0, -1.0, 3.0];
        let (temperature, n) = (1.7f64, 20_000);
        let weights: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sampler = random(temperature as f32, None, None, 11);
        let mut counts = [0usize; 4];
        for _ in 0..n {
            counts[sampler.sample(&logits) as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let p = weight / total;
            let deviation = (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!((*count as f64 - f64::from(n) * p).abs() < 5.0 * deviation, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0f32, 5.0, 4.0, 3.0];
        let mut by_count = random(10.0, Some(2), None, 5);
        // exp(5..0) weights 148, 55, 20, 1: the first alone reaches 66 %, the first two 90 %.
        let mut by_mass = random(1.0, None, Some(0.6), 5);
        for _ in 0..200 {
            assert!([1, 2].contains(&by_count.sample(&logits)));
            assert_eq!(by_mass.sample(&logits), 1);
        }
    }
}
