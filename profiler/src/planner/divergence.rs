//! How far a model's answers are from the reference's, item by item.

use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::probe::{Probe, ProbeBatch};
use crate::statistics::{Interval, wilson};

/// What the reference answered to one batch, `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct Answers {
    logits: Vec<f32>,
    cols: usize,
    /// Of each row: logarithm of the sum of exponentials, and the largest logit's place.
    rows: Vec<(f64, usize)>,
}

/// One output row against the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// Kullback-Leibler divergence of the answer from the reference's, in nats.
    pub kl_nats: f64,
    /// Loss on what is right, more than the reference's.
    pub loss_change_nats: Option<f64>,
    /// Probability of what is right, more than the reference's.
    pub probability_change: Option<f64>,
    /// Whether the first choice is another one.
    pub is_flipped: bool,
    /// Whether the reference's, and the own, first choice is right.
    pub is_right: Option<(bool, bool)>,
}

/// How far a model is from its reference over a whole probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Output rows that were compared: tokens, or classified texts.
    pub items: usize,
    /// Texts they come from.
    pub texts: usize,
    /// Mean divergence.
    pub kl_nats: Estimate,
    /// 50th, 90th, 95th, 99th, 99.9th percentile and largest divergence of an item.
    pub kl_percentiles_nats: [f64; 6],
    /// Mean change of the loss, item against item.
    pub loss_change_nats: Option<Estimate>,
    /// Root mean square change of the probability of what is right.
    pub probability_change_rms: Option<f64>,
    /// Items whose first choice is another one than the reference's.
    pub flips: usize,
    /// Share of the items with the same first choice.
    pub agreement: f64,
    /// Its 95 % interval: over texts where items of one text depend on each other, else Wilson's.
    pub agreement_low: f64,
    /// Upper end.
    pub agreement_high: f64,
    /// Change of the share of right first choices, item against item.
    pub accuracy_change: Option<Estimate>,
    /// Items that only the reference, and that only this model, gets right.
    pub lost_and_won: Option<(usize, usize)>,
    /// Every answer was a finite number.
    pub is_finite: bool,
}

impl Answers {
    /// Keeps the reference's answers.
    pub fn of(logits: &[f32], cols: usize) -> Self {
        let rows = in_parallel(logits.len() / cols.max(1), &|row| {
            let row = &logits[row * cols..(row + 1) * cols];
            (log_sum_exp(row), first_choice(row))
        });
        Answers { logits: logits.to_vec(), cols, rows }
    }

    /// Holds another model's answers to the same batch against them.
    pub fn compare(&self, logits: &[f32], targets: &[Option<u32>]) -> Vec<Item> {
        in_parallel(self.rows.len(), &|index| {
            let range = index * self.cols..(index + 1) * self.cols;
            self.item(index, &self.logits[range.clone()], &logits[range], targets[index])
        })
    }

    fn item(&self, index: usize, reference: &[f32], own: &[f32], target: Option<u32>) -> Item {
        let (reference_sum, reference_choice) = self.rows[index];
        let (own_sum, own_choice) = (log_sum_exp(own), first_choice(own));
        let terms = reference.iter().zip(own).map(|(r, o)| {
            let (r, o) = (f64::from(*r), f64::from(*o));
            (r - reference_sum).exp() * (r - o)
        });
        let loss = target.map(|target| {
            let of = |row: &[f32], sum: f64| sum - f64::from(row[target as usize]);
            (of(reference, reference_sum), of(own, own_sum))
        });
        Item {
            kl_nats: terms.sum::<f64>() - (reference_sum - own_sum),
            loss_change_nats: loss.map(|(before, after)| after - before),
            probability_change: loss.map(|(before, after)| (-after).exp() - (-before).exp()),
            is_flipped: own_choice != reference_choice,
            is_right: target.map(|target| {
                let target = target as usize;
                (reference_choice == target, own_choice == target)
            }),
        }
    }
}

impl Divergence {
    /// Sums up the items of each batch of a probe.
    pub fn of(probe: &Probe, items: &[Vec<Item>]) -> Self {
        let all: Vec<&Item> = items.iter().flatten().collect();
        let texts: Vec<&[Item]> =
            probe.batches.iter().zip(items).flat_map(|(b, items)| texts(b, items)).collect();
        let mean = |of: &dyn Fn(&Item) -> Option<f64>| -> Option<Estimate> {
            let cluster = |items: &&[Item]| {
                let values: Vec<f64> = items.iter().filter_map(of).collect();
                (values.iter().sum(), values.len())
            };
            let clusters: Vec<(f64, usize)> = texts.iter().map(cluster).collect();
            clusters.iter().any(|(_, n)| *n > 0).then(|| Estimate::of_clusters(&clusters))
        };
        let mut divergences: Vec<f64> = all.iter().map(|item| item.kl_nats).collect();
        divergences.sort_by(f64::total_cmp);
        let percentile = |share: f64| {
            let at = (share * divergences.len().saturating_sub(1) as f64).round() as usize;
            divergences.get(at).copied().unwrap_or(0.0)
        };
        let flips = all.iter().filter(|item| item.is_flipped).count();
        let agreement = mean(&|item| Some(f64::from(u8::from(!item.is_flipped)))).unwrap_or_default();
        let are_alone = texts.iter().all(|items| items.len() == 1);
        let interval = match agreement.interval().filter(|_| !are_alone) {
            Some((low, high)) => Some(Interval { low: low.max(0.0), high: high.min(1.0) }),
            None => wilson(all.len() - flips, all.len()),
        };
        let squares: Vec<f64> =
            all.iter().filter_map(|item| item.probability_change).map(|change| change * change).collect();
        let right: Vec<(bool, bool)> = all.iter().filter_map(|item| item.is_right).collect();
        let count = |wanted: (bool, bool)| right.iter().filter(|pair| **pair == wanted).count();
        Divergence {
            items: all.len(),
            texts: texts.len(),
            kl_nats: mean(&|item| Some(item.kl_nats)).unwrap_or_default(),
            kl_percentiles_nats: [0.5, 0.9, 0.95, 0.99, 0.999, 1.0].map(percentile),
            loss_change_nats: mean(&|item| item.loss_change_nats),
            probability_change_rms: (!squares.is_empty())
                .then(|| (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()),
            flips,
            agreement: agreement.mean,
            agreement_low: interval.map_or(0.0, |interval| interval.low),
            agreement_high: interval.map_or(1.0, |interval| interval.high),
            accuracy_change: mean(&|item| {
                item.is_right.map(|(before, after)| f64::from(u8::from(after)) - f64::from(u8::from(before)))
            }),
            lost_and_won: (!right.is_empty()).then(|| (count((true, false)), count((false, true)))),
            is_finite: all.iter().all(|item| item.kl_nats.is_finite()),
        }
    }
}

/// The items of a batch, text by text.
fn texts<'a>(batch: &ProbeBatch, items: &'a [Item]) -> std::slice::Chunks<'a, Item> {
    items.chunks(if batch.is_one_text { items.len().max(1) } else { 1 })
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    // A NaN anywhere in the row makes the sum one.
    largest + row.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

/// The first of the largest.
fn first_choice(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// `of(0), of(1), ...` on all cores: rows over a vocabulary are millions of exponentials.
fn in_parallel<T: Send>(n: usize, of: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = n.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..n)
            .step_by(share)
            .map(|start| scope.spawn(move || (start..n.min(start + share)).map(of).collect::<Vec<T>>()))
            .collect();
        shares.into_iter().filter_map(|share| share.join().ok()).flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn divergence_of_two_distributions_by_hand() {
        let reference = Answers::of(&logits(&[0.5, 0.25, 0.25]), 3);
        let item = reference.compare(&logits(&[0.25, 0.5, 0.25]), &[Some(1)])[0];
        // 0.5 ln 2 + 0.25 ln 0.5 = 0.25 ln 2; f32 logits near 3 carry 2^-23.
        assert!((item.kl_nats - 0.25 * 2f64.ln()).abs() < 1e-6);
        assert!((item.loss_change_nats.unwrap() + 2f64.ln()).abs() < 1e-6);
        assert!((item.probability_change.unwrap() - 0.25).abs() < 1e-6);
        assert!(item.is_flipped);
        assert_eq!(item.is_right, Some((false, true)));
        let same = reference.compare(&logits(&[0.5, 0.25, 0.25]), &[None])[0];
        // The same logits: nothing is left but the rounding of the sums in f64.
        assert!(same.kl_nats.abs() < 1e-12 && !same.is_flipped && same.loss_change_nats.is_none());
    }

    #[test]
    fn answers_that_are_no_numbers_are_seen() {
        let reference = Answers::of(&[1.0, 2.0, 1.0, 2.0], 2);
        for bad in [f32::NAN, f32::INFINITY] {
            let items = reference.compare(&[1.0, 2.0, 1.0, bad], &[None, None]);
            assert!(items[0].kl_nats.is_finite() && !items[1].kl_nats.is_finite());
        }
    }

    #[test]
    fn rows_come_back_in_order() {
        assert_eq!(in_parallel(7, &|index| index * 2), [0, 2, 4, 6, 8, 10, 12]);
        assert!(in_parallel(0, &|index| index).is_empty());
    }
}
