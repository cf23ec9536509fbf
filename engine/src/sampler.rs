//! From logits to the next token.

use joulewise_kernels::sampling::{Candidate, Draw, SamplingRule, sample};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// Chooses tokens; keeps its random stream and its scratch memory.
#[derive(Clone, Debug)]
pub struct Sampler {
    rule: SamplingRule,
    random: Pcg64,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the begin of its stream, which is the same for the same seed on every machine.
    pub fn new(rule: SamplingRule, seed: u64) -> Self {
        Sampler { rule, random: Pcg64::seed_from_u64(seed), candidates: Vec::new() }
    }

    /// One that takes the most likely token, the first of equals.
    pub fn greedy() -> Self {
        Sampler::new(SamplingRule { temperature: 0.0, top_k: None, top_p: None }, 0)
    }

    /// The next token for one row of logits `[vocab_size]`. NaN is never chosen over a number.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        sample(logits, &self.draw(), &mut self.candidates)
    }

    /// The next token, to be drawn from logits that are elsewhere.
    pub(crate) fn draw(&mut self) -> Draw {
        Draw { rule: self.rule, random: self.random.random() }
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
        Sampler::new(SamplingRule { temperature, top_k, top_p }, seed)
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_never_nan() {
        let logits = [0.0, 2.0, f32::NAN, 2.0];
        assert_eq!((greedy(&logits), Sampler::greedy().sample(&logits)), (1, 1));
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
