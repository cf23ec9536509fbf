//! STS-B: how alike are two sentences? Spearman correlation of cosine similarities with human scores (Cer et al. 2017).

use std::path::Path;

use joulewise_engine::{OutputKind, Session, TokenBatch};

use super::{Encode, Outcome, Score, Task, Workload, batches_by_length, encode_cut};
use crate::error::{ProfilerError, Result};
use crate::statistics::{bootstrap, spearman};

/// Pairs per batch.
const BATCH: usize = 8;
/// Resamplings behind the interval.
const DRAWS: usize = 1000;

pub(super) const TASK: Task = Task {
    name: "stsb",
    metric: "spearman",
    convention: "cosine of pooled embeddings against the scores of a CSV without header (sentence, sentence, score), \
                 ties at mean rank; interval: bootstrap over pairs",
    needs: OutputKind::Embedding,
    load,
};

struct Stsb {
    /// Both sentences of each pair, one behind the other, and which pairs they are.
    batches: Vec<(TokenBatch, Vec<usize>)>,
    human: Vec<f64>,
}

fn load(path: &Path, session: &Session, encode: &dyn Encode) -> Result<Box<dyn Workload>> {
    let pairs = read(path)?;
    let mut sequences = Vec::with_capacity(pairs.len());
    for (index, (first, second, _)) in pairs.iter().enumerate() {
        let cut = |text: &str| encode_cut(encode, index, text, session.context());
        sequences.push([cut(first)?, cut(second)?]);
    }
    let lengths: Vec<usize> = sequences.iter().map(|pair| pair[0].len().max(pair[1].len())).collect();
    let mut batches = Vec::new();
    for indices in batches_by_length(&lengths, BATCH) {
        let of_pair = |index: &usize| sequences[*index].iter().map(Vec::as_slice);
        let batch: Vec<&[u32]> = indices.iter().flat_map(of_pair).collect();
        batches.push((TokenBatch::padded(&batch, encode.pad_id())?, indices));
    }
    Ok(Box::new(Stsb { batches, human: pairs.into_iter().map(|(_, _, score)| score).collect() }))
}

fn read(path: &Path) -> Result<Vec<(String, String, f64)>> {
    let malformed = |line: u64, got: String| ProfilerError::Malformed {
        path: path.to_owned(),
        line,
        expected: "two sentences and a score, separated by commas".to_owned(),
        got,
    };
    let bytes = std::fs::read(path).map_err(ProfilerError::io(path))?;
    let mut rows = Vec::new();
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes.as_slice());
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(rows.len() as u64 + 1, csv::Position::line);
            malformed(line, error.to_string())
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let score =
            record.get(2).and_then(|score| score.trim().parse().ok()).filter(|score: &f64| score.is_finite());
        match (&record[0], record.get(1), score) {
            (first, Some(second), Some(score)) if record.len() == 3 => {
                rows.push((first.to_owned(), second.to_owned(), score));
            }
            _ => return Err(malformed(line, record.iter().collect::<Vec<_>>().join(","))),
        }
    }
    if rows.is_empty() {
        let expected = "two sentences and a score per line".to_owned();
        return Err(ProfilerError::EmptyFile { path: path.to_owned(), expected });
    }
    Ok(rows)
}

impl Workload for Stsb {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The values are the cosines of the pairs.
    fn run(&self, session: &mut Session, batch: usize) -> Result<Outcome> {
        let (tokens, indices) = &self.batches[batch];
        let output = session.forward(tokens)?;
        let of_pair = |pair: usize| cosine(output.row(2 * pair), output.row(2 * pair + 1));
        Ok(Outcome { tokens: tokens.visible_tokens(), values: (0..indices.len()).map(of_pair).collect() })
    }

    fn score(&self, outcomes: &[Outcome]) -> Score {
        let mut cosines = vec![0.0; self.human.len()];
        for ((_, indices), outcome) in self.batches.iter().zip(outcomes) {
            for (index, cosine) in indices.iter().zip(&outcome.values) {
                cosines[*index] = *cosine;
            }
        }
        let drawn = |indices: &[usize]| {
            let pick = |values: &[f64]| indices.iter().map(|index| values[*index]).collect::<Vec<_>>();
            spearman(&pick(&cosines), &pick(&self.human))
        };
        Score {
            // Constant embeddings have no rank order at all.
            score: spearman(&cosines, &self.human).unwrap_or(f64::NAN),
            interval: bootstrap(cosines.len(), DRAWS, 0, drawn),
            n: cosines.len(),
            correct: None,
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, String, f64)>> {
        let file =
            std::env::temp_dir().join(format!("joulewise-stsb-{:x}.csv", crate::task::tests_hash(text)));
        std::fs::write(&file, text).unwrap();
        let rows = read(&file);
        std::fs::remove_file(&file).unwrap();
        rows
    }

    #[test]
    fn quoted_commas_do_not_split() {
        let rows = parse("\"a, b\",c,2.5\nd,e,0.0\n").unwrap();
        assert_eq!(rows[0], ("a, b".to_owned(), "c".to_owned(), 2.5));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn bad_files_name_the_line() {
        assert!(parse("").unwrap_err().to_string().contains("holds no data"));
        assert!(parse("a,b,1\nc,d\n").unwrap_err().to_string().contains(":2: "));
        assert!(parse("a,b,high\n").unwrap_err().to_string().contains(":1: "));
        assert!(parse("a,b,1,extra\n").unwrap_err().to_string().contains(":1: "));
    }

    #[test]
    fn cosine_by_hand() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-15);
    }
}
