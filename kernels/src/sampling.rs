//! Drawing the next token from logits, in whole numbers.
//!
//! Sums of whole numbers do not depend on their order, so one thread, many threads and a GPU draw the same token from the
//! same logits and the same random number. What they agree on:
//!
//! - A logit's *distance* below the largest one, in 2^-24 of a bit: how often its probability has to be halved.
//! - A token's *weight* 2^-distance, in 2^-40 of the most likely token's. What weighs less is never drawn: a vocabulary of
//!   2^17 such tokens would together have less than one chance in 2^23.
//! - Top-k and top-p keep all tokens up to some distance, so equals stay or go together and their order means nothing.
//! - A draw goes along tokens whose index leaves the same remainder divided by 1024, one remainder behind the
//!   other, as the threads of a GPU share them out.

use std::f32::consts::{LN_2, LOG2_E};

/// Distances from here on are too far to be drawn; NaN is farther than any number.
pub(crate) const NEVER: u32 = 1 << 30;

/// A draw goes along the tokens `i, i + COLUMNS, i + 2 * COLUMNS, ...` for each `i` in turn.
pub(crate) const COLUMNS: usize = 1024;

/// Digits of a distance, ten bits each, the first one first.
const DIGIT_SHIFTS: [u32; 3] = [20, 10, 0];
const DIGITS: usize = 1 << 10;

/// What may be drawn, and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingRule {
    /// Logits are divided by this; 1 leaves the model's own distribution, 0 draws the most likely token, the first of equals.
    pub temperature: f32,
    /// Only tokens at least as likely as the one in this place are kept.
    pub top_k: Option<usize>,
    /// Of these, only the most likely ones that together reach this probability are kept, and what is as likely as the last of
    /// them (Holtzman et al. 2020).
    pub top_p: Option<f32>,
}

impl SamplingRule {
    /// Distance of a logit that is smaller by one; `None` when only the most likely token can be drawn.
    pub(crate) fn distance_of_one(&self) -> Option<f32> {
        let distance = LOG2_E * (1 << 24) as f32 / self.temperature;
        (self.temperature > 0.0 && distance.is_finite()).then_some(distance)
    }

    /// [`SamplingRule::top_p`] in 2^-64; `None` when it keeps everything.
    pub(crate) fn top_p_in_64_bits(&self) -> Option<u64> {
        // The conversion saturates, so what is not above zero keeps the most likely token alone.
        self.top_p.filter(|p| *p < 1.0).map(|p| (f64::from(p) * 2f64.powi(64)) as u64)
    }
}

/// One token that is to be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// From which tokens.
    pub rule: SamplingRule,
    /// Uniform over all 64 bits.
    pub random: u64,
}

impl Draw {
    /// What `sampling.cu` reads: the distance of one, as a float's bits, and top-k above them; top-p in 2^-64; the random
    /// number. A distance of zero stands for the most likely token, a limit of zero for none.
    pub fn words(&self) -> [u64; 3] {
        let distance_of_one = self.rule.distance_of_one().unwrap_or(0.0).to_bits();
        let top_k = self.rule.top_k.map_or(0, |k| k.clamp(1, u32::MAX as usize) as u64);
        let top_p = self.rule.top_p_in_64_bits().map_or(0, |p| p.max(1));
        [top_k << 32 | u64::from(distance_of_one), top_p, self.random]
    }
}

/// How far a logit lies below the largest, [`NEVER`] for NaN and for what is too far. The same operations as in
/// `sampling.cu`.
pub(crate) fn distance(logit: f32, largest: f32, distance_of_one: f32) -> u32 {
    let below = (largest - logit) * distance_of_one;
    if below < NEVER as f32 { below as u32 } else { NEVER }
}

/// 2^40 2^-distance. The fraction's power of two is a polynomial of degree 6, off by at most 1.9e-7 of itself, its operations
/// those of `sampling.cu`, each rounded by itself.
pub(crate) fn weight(distance: u32) -> u64 {
    if distance >= NEVER {
        return 0;
    }
    let x = (distance & 0xff_ffff) as f32 * (1.0 / (1 << 24) as f32);
    let mut power = 1.114_168_9e-4_f32;
    for coefficient in [-1.282_349_7e-3, 9.588_331e-3, -5.549_59e-2, 2.402_256_9e-1, -LN_2, 1.0] {
        power = power * x + coefficient;
    }
    ((power * (1 << 24) as f32) as u64) << 16 >> (distance >> 24)
}

/// A token that may be drawn: its distance and its index.
pub type Candidate = (u32, u32);

/// Draws a token from one row of logits. NaN is never drawn while there is a number, and unless the largest number is finite
/// the first of the largest is taken, 0 where there is no number. `candidates` are overwritten.
pub fn sample(logits: &[f32], draw: &Draw, candidates: &mut Vec<Candidate>) -> u32 {
    let Draw { rule, random } = draw;
    let largest = largest(logits);
    let distance_of_one = match rule.distance_of_one() {
        Some(distance_of_one) if largest.is_finite() => distance_of_one,
        _ => return logits.iter().position(|logit| *logit == largest).unwrap_or(0) as u32,
    };
    let all = (0..).zip(logits).map(|(token, logit)| (distance(*logit, largest, distance_of_one), token));
    candidates.clear();
    candidates.extend(all.filter(|(distance, _)| *distance < NEVER));
    if let Some(k) = rule.top_k {
        keep(candidates, |_| 1, |total| total.min(k as u64));
    }
    if let Some(p) = rule.top_p_in_64_bits() {
        keep(candidates, weight, |total| high_half(total, p));
    }
    along_columns(candidates, *random)
}

/// The largest number, by eight chains of comparisons that do not wait for each other.
fn largest(logits: &[f32]) -> f32 {
    let (eights, rest) = logits.as_chunks::<8>();
    let mut largest = [f32::NEG_INFINITY; 8];
    for eight in eights {
        for (largest, logit) in largest.iter_mut().zip(eight) {
            *largest = if *logit > *largest { *logit } else { *largest };
        }
    }
    largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Keeps the candidates within the distance at which amounts reach a target, digit by digit of the distance.
fn keep(candidates: &mut Vec<Candidate>, amount: impl Fn(u32) -> u64, target: impl Fn(u64) -> u64) {
    let (mut known, mut left) = (0, None);
    for shift in DIGIT_SHIFTS {
        let mut sums = [0u64; DIGITS];
        for (distance, _) in candidates.iter().filter(|(distance, _)| *distance >> (shift + 10) == known) {
            sums[(distance >> shift) as usize % DIGITS] += amount(*distance);
        }
        let mut target = left.unwrap_or_else(|| target(sums.iter().sum()).max(1));
        let mut digit = 0;
        while digit + 1 < DIGITS && sums[digit] < target {
            target -= sums[digit];
            digit += 1;
        }
        known = known << 10 | digit as u32;
        left = Some(target);
        candidates.retain(|(distance, _)| *distance >> shift <= known);
    }
}

/// The token at which weights, column by column, pass the random share of their sum.
fn along_columns(candidates: &[Candidate], random: u64) -> u32 {
    let mut sums = [0u64; COLUMNS];
    for (distance, token) in candidates {
        sums[*token as usize % COLUMNS] += weight(*distance);
    }
    let mut left = high_half(sums.iter().sum(), random);
    let mut column = 0;
    while column + 1 < COLUMNS && left >= sums[column] {
        left -= sums[column];
        column += 1;
    }
    for (distance, token) in candidates.iter().filter(|(_, token)| *token as usize % COLUMNS == column) {
        let weight = weight(*distance);
        if left < weight {
            return *token;
        }
        left -= weight;
    }
    // Not reached: the largest logit has a weight, so the share is less than the sum.
    0
}

/// `a b / 2^64`.
fn high_half(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    /// SplitMix64 (Steele et al. 2014).
    struct Random(u64);

    impl Random {
        fn bits(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }

        fn below(&mut self, n: usize) -> usize {
            (self.bits() % n as u64) as usize
        }
    }

    /// The polynomial is off by 1.9e-7 of itself, and a weight is cut to whole numbers.
    #[test]
    fn weights_are_powers_of_two() {
        let mut random = Random(1);
        for _ in 0..100_000 {
            let distance = random.below(NEVER as usize) as u32;
            let exact = 2f64.powf(40.0 - f64::from(distance) / (1 << 24) as f64);
            let error = (weight(distance) as f64 - exact).abs();
            assert!(error <= 1.0 + 1.9e-7 * exact, "{distance}: {} for {exact}", weight(distance));
        }
        assert_eq!((weight(0), weight(1 << 24), weight(NEVER)), (1 << 40, 1 << 39, 0));
    }

    #[test]
    fn draws_what_the_reference_draws() {
        let mut random = Random(2);
        let mut candidates = Vec::new();
        for round in 0..3000 {
            let n = 1 + random.below([7, 300, 5000][round % 3]);
            let spread = [0.01, 1.0, 6.0, 200.0][random.below(4)];
            let mut logits: Vec<f32> = (0..n)
                .map(|_| {
                    let sum: f32 =
                        (0..4).map(|_| (random.bits() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum();
                    sum * spread
                })
                .collect();
            for logit in &mut logits {
                match (round % 5, random.below(9)) {
                    // Few different values: ties everywhere.
                    (1, _) => *logit = logit.round(),
                    (2, 0) => *logit = [f32::NAN, f32::NEG_INFINITY, -0.0][random.below(3)],
                    (3, _) => *logit = 0.25,
                    _ => {}
                }
            }
            let rule = SamplingRule {
                temperature: [0.0, 0.3, 1.0, 4.0][random.below(4)],
                top_k: [None, Some(1), Some(1 + random.below(n)), Some(n + 3)][random.below(4)],
                top_p: [None, Some(0.0), Some(0.5), Some(0.95), Some(1.0)][random.below(5)],
            };
            let draw = Draw { rule, random: [0, u64::MAX, random.bits()][random.below(3)] };
            let got = sample(&logits, &draw, &mut candidates);
            assert_eq!(got, reference::sample(&logits, &draw), "{draw:?} of {n}");
        }
    }

    #[test]
    fn without_a_finite_number_the_first_largest_is_taken() {
        let rule = SamplingRule { temperature: 1.0, top_k: None, top_p: Some(0.9) };
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let cases: [(&[f32], u32); 4] =
            [(&[nan, nan], 0), (&[nan, -infinity], 1), (&[1.0, infinity, infinity], 1), (&[], 0)];
        for (logits, expected) in cases {
            assert_eq!(sample(logits, &Draw { rule, random: 0 }, &mut Vec::new()), expected, "{logits:?}");
        }
    }

    #[test]
    fn equals_stay_or_go_together() {
        let logits = [0.0, 1.0, 1.0, 1.0, -9.0];
        let drawn = |rule| {
            let draw = |i: u64| sample(&logits, &Draw { rule, random: i << 58 }, &mut Vec::new());
            let mut drawn: Vec<u32> = (0..64).map(draw).collect();
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(drawn(SamplingRule { temperature: 1.0, top_k: Some(1), top_p: None }), [1, 2, 3]);
        assert_eq!(drawn(SamplingRule { temperature: 1.0, top_k: None, top_p: Some(0.1) }), [1, 2, 3]);
        assert_eq!(drawn(SamplingRule { temperature: 0.0, top_k: None, top_p: None }), [1]);
    }
}
