//! From what a model says of a sentence to an answer.

use serde::{Deserialize, Serialize};

/// How an answer is read out of a model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readout {
    /// The output is one number per class: the largest.
    Classes,
    /// The output is an embedding: the class whose mean embedding, of all other sentences, is closest by cosine. Leaving
    /// the sentence itself out of the mean makes this a test on unseen data, without a training set.
    NearestClassMean,
}

impl Readout {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Readout::Classes => "own head",
            Readout::NearestClassMean => "nearest class mean, leave one out",
        }
    }

    /// The answers to all sentences from the outputs for them.
    pub(super) fn answers(self, outputs: &[Vec<f32>], labels: &[u32]) -> Vec<u32> {
        match self {
            Readout::Classes => outputs.iter().map(|logits| joulewise_engine::greedy(logits)).collect(),
            Readout::NearestClassMean => nearest_class_means(outputs, labels),
        }
    }
}

fn nearest_class_means(outputs: &[Vec<f32>], labels: &[u32]) -> Vec<u32> {
    let n_classes = labels.iter().max().map_or(0, |most| *most as usize + 1);
    let dimensions = outputs.first().map_or(0, Vec::len);
    // Sums of unit vectors in f64: taking one sentence out again leaves no trace of it.
    let units: Vec<Vec<f64>> = outputs.iter().map(|output| unit(output)).collect();
    let mut sums = vec![vec![0.0; dimensions]; n_classes];
    for (unit, label) in units.iter().zip(labels) {
        sums[*label as usize].iter_mut().zip(unit).for_each(|(sum, value)| *sum += value);
    }
    let answer = |(unit, label): (&Vec<f64>, &u32)| {
        let cosine = |class: usize| {
            let own = if class == *label as usize { 1.0 } else { 0.0 };
            let (mut dot, mut square) = (0.0, 0.0);
            for (sum, value) in sums[class].iter().zip(unit) {
                let mean = sum - own * value;
                dot += mean * value;
                square += mean * mean;
            }
            if square > 0.0 { dot / square.sqrt() } else { f64::NEG_INFINITY }
        };
        let closest = (0..n_classes).max_by(|a, b| cosine(*a).total_cmp(&cosine(*b)));
        closest.unwrap_or(0) as u32
    };
    units.iter().zip(labels).map(answer).collect()
}

fn unit(values: &[f32]) -> Vec<f64> {
    let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    values.iter().map(|value| f64::from(*value) * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_class_wins() {
        let outputs = [vec![0.5, -1.0], vec![-2.0, -1.0]];
        assert_eq!(Readout::Classes.answers(&outputs, &[1, 1]), [0, 1]);
    }

    #[test]
    fn sentences_go_to_the_class_they_resemble() {
        let outputs = [vec![1.0, 0.1], vec![3.0, 0.0], vec![0.1, 1.0], vec![0.0, 0.2], vec![1.0, 0.2]];
        // The last one looks like class 0, whatever its label.
        assert_eq!(Readout::NearestClassMean.answers(&outputs, &[0, 0, 1, 1, 1]), [0, 0, 1, 1, 0]);
    }

    #[test]
    fn a_sentence_does_not_testify_for_itself() {
        // Orthogonal embeddings resemble nothing but themselves: with themselves left out, no class is closer than the
        // other, and the means hold no trace of the labels.
        let outputs: Vec<Vec<f32>> =
            (0..6).map(|i| (0..6).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
        let answers = Readout::NearestClassMean.answers(&outputs, &[0, 1, 0, 1, 0, 1]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }

    #[test]
    fn an_empty_embedding_has_an_answer() {
        assert_eq!(Readout::NearestClassMean.answers(&[vec![0.0], vec![1.0]], &[0, 1]).len(), 2);
    }
}
