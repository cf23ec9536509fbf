//! The texts that models are compared on, as batches whose every output row counts.

use std::path::Path;

use joulewise_engine::{ForwardOptions, ModelGraph, OutputKind, TokenBatch};

use crate::error::{ProfilerError, Result};
use crate::task::{Encode, batches_by_length, encode_cut, sst2};

/// Sentences per batch of a classifier.
const BATCH: usize = 16;

/// A text as tokens, with its class where one is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The right class.
    pub label: Option<u32>,
}

/// Batches that are ready to run.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The batches.
    pub batches: Vec<ProbeBatch>,
    /// What is left behind by a run.
    pub options: ForwardOptions,
}

/// One batch.
#[derive(Clone, Debug)]
pub struct ProbeBatch {
    /// Its tokens.
    pub tokens: TokenBatch,
    /// What is right, by output row: the next token, or the class.
    pub targets: Vec<Option<u32>>,
    /// The rows stem from one text, so they are not independent of each other.
    pub is_one_text: bool,
}

/// Reads what fits a model: labelled sentences (a header with `sentence` and `label`, tabs) for a classifier, windows
/// of `window` tokens of running text for a language model.
///
/// # Errors
/// Those of the file and of the tokenizer, and [`ProfilerError::Protocol`] for models without answers to compare.
pub fn read_samples(
    graph: &ModelGraph,
    path: &Path,
    window: usize,
    encode: &dyn Encode,
) -> Result<Vec<Sample>> {
    match graph.output_kind {
        OutputKind::Classes => {
            let rows = sst2::read(path)?;
            let sample = |(index, (sentence, label)): (usize, &(String, u32))| {
                let tokens = encode_cut(encode, index, sentence, window)?;
                Ok(Sample { tokens, label: Some(*label) })
            };
            rows.iter().enumerate().map(sample).collect()
        }
        OutputKind::NextToken => {
            let text = std::fs::read_to_string(path).map_err(ProfilerError::io(path))?;
            let ids = encode.encode(&text).map_err(|source| ProfilerError::Encode { index: 0, source })?;
            let samples = windows(&ids, window);
            if samples.is_empty() {
                let expected = "a text of at least two tokens".to_owned();
                return Err(ProfilerError::EmptyFile { path: path.to_owned(), expected });
            }
            Ok(samples)
        }
        OutputKind::Embedding => Err(ProfilerError::Protocol(
            "a plan compares answers, and an embedding model has neither classes nor tokens to answer with"
                .to_owned(),
        )),
    }
}

/// Consecutive windows of some tokens; one of a single token has nothing to predict and is left out.
pub fn windows(ids: &[u32], window: usize) -> Vec<Sample> {
    let windows = ids.chunks(window.max(2)).filter(|window| window.len() > 1);
    windows.map(|window| Sample { tokens: window.to_vec(), label: None }).collect()
}

/// At most `most` of some samples, evenly spread, and the others.
pub fn spread(samples: Vec<Sample>, most: usize) -> (Vec<Sample>, Vec<Sample>) {
    let n = samples.len();
    let most = most.min(n);
    let mut taken = vec![false; n];
    (0..most).for_each(|index| taken[index * n / most] = true);
    let (mut chosen, mut others) = (Vec::new(), Vec::new());
    for (sample, is_taken) in samples.into_iter().zip(taken) {
        if is_taken { chosen.push(sample) } else { others.push(sample) }
    }
    (chosen, others)
}

impl Probe {
    /// Batches of samples.
    ///
    /// # Errors
    /// [`joulewise_engine::EngineError::EmptyInput`] without any.
    pub fn of(graph: &ModelGraph, samples: &[Sample], pad_id: u32) -> Result<Probe> {
        let is_generator = graph.output_kind == OutputKind::NextToken;
        let options = ForwardOptions { all_logits: is_generator, ..Default::default() };
        let mut batches = Vec::new();
        if is_generator {
            for sample in samples {
                let next = sample.tokens.iter().skip(1).map(|token| Some(*token));
                batches.push(ProbeBatch {
                    tokens: TokenBatch::single(&sample.tokens)?,
                    targets: next.chain([None]).collect(),
                    is_one_text: true,
                });
            }
        } else {
            let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.tokens.clone()).collect();
            let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
            for indices in batches_by_length(&lengths, BATCH) {
                let rows: Vec<&[u32]> = indices.iter().map(|index| sequences[*index].as_slice()).collect();
                batches.push(ProbeBatch {
                    tokens: TokenBatch::padded(&rows, pad_id)?,
                    targets: indices.iter().map(|index| samples[*index].label).collect(),
                    is_one_text: false,
                });
            }
        }
        if batches.is_empty() {
            return Err(joulewise_engine::EngineError::EmptyInput.into());
        }
        Ok(Probe { batches, options })
    }

    /// Texts.
    pub fn texts(&self) -> usize {
        self.batches.iter().map(|batch| if batch.is_one_text { 1 } else { batch.targets.len() }).sum()
    }

    /// Output rows that are compared.
    pub fn items(&self) -> usize {
        self.batches.iter().map(|batch| batch.targets.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_none_is_lost() {
        let samples = windows(&(0..23).collect::<Vec<_>>(), 4);
        assert_eq!(samples.len(), 6);
        assert_eq!(samples[5].tokens, [20, 21, 22]);
        let (chosen, others) = spread(samples.clone(), 3);
        assert_eq!(chosen, [samples[0].clone(), samples[2].clone(), samples[4].clone()]);
        assert_eq!(others, [samples[1].clone(), samples[3].clone(), samples[5].clone()]);
        assert_eq!(spread(samples.clone(), 100).0, samples);
    }
}
