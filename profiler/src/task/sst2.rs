//! SST-2: is a sentence from a film review positive? Accuracy of a classifier (Socher et al. 2013; GLUE's dev.tsv).

use std::path::Path;

use joulewise_engine::{OutputKind, Session, TokenBatch, greedy};

use super::{Encode, Outcome, Score, Task, Workload, batches_by_length, encode_cut};
use crate::error::{ProfilerError, Result};
use crate::statistics::wilson;

/// Sentences per batch.
const BATCH: usize = 16;

pub(super) const TASK: Task = Task {
    name: "sst2",
    metric: "accuracy",
    convention: "GLUE dev.tsv, raw sentence, largest of the class logits; interval: Wilson",
    needs: OutputKind::Classes,
    load,
};

struct Sst2 {
    batches: Vec<(TokenBatch, Vec<u32>)>,
}

fn load(path: &Path, session: &Session, encode: &dyn Encode) -> Result<Box<dyn Workload>> {
    let rows = read(path)?;
    let mut sequences = Vec::with_capacity(rows.len());
    for (index, (sentence, _)) in rows.iter().enumerate() {
        sequences.push(encode_cut(encode, index, sentence, session.context())?);
    }
    let mut batches = Vec::new();
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    for indices in batches_by_length(&lengths, BATCH) {
        let batch: Vec<&[u32]> = indices.iter().map(|index| sequences[*index].as_slice()).collect();
        let labels = indices.iter().map(|index| rows[*index].1).collect();
        batches.push((TokenBatch::padded(&batch, encode.pad_id())?, labels));
    }
    Ok(Box::new(Sst2 { batches }))
}

/// Sentences and labels of a file with the columns `sentence` and `label`, separated by tabs.
///
/// # Errors
/// When it cannot be read, or [`parse`] refuses it.
pub fn read(path: &Path) -> Result<Vec<(String, u32)>> {
    parse(&std::fs::read_to_string(path).map_err(ProfilerError::io(path))?, path)
}

/// The same of a text; errors call it `path`.
///
/// # Errors
/// [`ProfilerError::EmptyFile`], or [`ProfilerError::Malformed`] for the first line that is not a sentence and a label.
pub fn parse(text: &str, path: &Path) -> Result<Vec<(String, u32)>> {
    let expected = "a header with the columns `sentence` and `label`, then one sentence per line";
    let malformed = |line: u64, got: &str| ProfilerError::Malformed {
        path: path.to_owned(),
        line,
        expected: "a sentence, a tab and the label 0 or 1".to_owned(),
        got: got.to_owned(),
    };
    // GLUE's files are not quoted: a sentence may begin with a lone quotation mark.
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let column = |name: &str| header.iter().position(|column| column.trim() == name);
    let empty = || ProfilerError::EmptyFile { path: path.to_owned(), expected: expected.to_owned() };
    if text.trim().is_empty() {
        return Err(empty());
    }
    let (Some(sentence), Some(label)) = (column("sentence"), column("label")) else {
        return Err(ProfilerError::Malformed {
            path: path.to_owned(),
            line: 1,
            expected: expected.to_owned(),
            got: header.join(", "),
        });
    };
    let mut rows = Vec::new();
    for (line, row) in (2..).zip(lines).filter(|(_, row)| !row.trim().is_empty()) {
        let fields: Vec<&str> = row.split('\t').collect();
        let (Some(sentence), Some(label)) = (fields.get(sentence), fields.get(label)) else {
            return Err(malformed(line, row));
        };
        let label =
            label.trim().parse().ok().filter(|label| *label < 2).ok_or_else(|| malformed(line, label))?;
        rows.push(((*sentence).to_owned(), label));
    }
    if rows.is_empty() { Err(empty()) } else { Ok(rows) }
}

impl Workload for Sst2 {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The values are 1 where the class is right and 0 where it is wrong.
    fn run(&self, session: &mut Session, batch: usize) -> Result<Outcome> {
        let (tokens, labels) = &self.batches[batch];
        let logits = session.forward(tokens)?;
        let is_right = |(row, label): (usize, &u32)| f64::from(u8::from(greedy(logits.row(row)) == *label));
        let values = labels.iter().enumerate().map(is_right).collect();
        Ok(Outcome { tokens: tokens.visible_tokens(), values })
    }

    fn score(&self, outcomes: &[Outcome]) -> Score {
        let n = outcomes.iter().map(|outcome| outcome.values.len()).sum();
        let correct = outcomes.iter().flat_map(|outcome| &outcome.values).sum::<f64>() as usize;
        let score = correct as f64 / n as f64;
        Score { score, interval: wilson(correct, n), n, correct: Some(correct) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, u32)>> {
        let file =
            std::env::temp_dir().join(format!("joulewise-sst2-{:x}.tsv", crate::task::tests_hash(text)));
        std::fs::write(&file, text).unwrap();
        let rows = read(&file);
        std::fs::remove_file(&file).unwrap();
        rows
    }

    #[test]
    fn quotes_are_part_of_the_sentence_and_columns_are_found_by_name() {
        let rows = parse("label\tsentence\n1\t\"a lone quote\n0\tbad \n").unwrap();
        assert_eq!(rows, [("\"a lone quote".to_owned(), 1), ("bad ".to_owned(), 0)]);
    }

    #[test]
    fn bad_files_name_the_line() {
        assert!(parse("").unwrap_err().to_string().contains("holds no data"));
        assert!(parse("sentence\tlabel\n").unwrap_err().to_string().contains("holds no data"));
        assert!(parse("a\tb\n").unwrap_err().to_string().contains(":1: "));
        assert!(parse("sentence\tlabel\ngood\t1\nbad\t2\n").unwrap_err().to_string().contains(":3: "));
        assert!(parse("sentence\tlabel\ngood\n").unwrap_err().to_string().contains(":2: "));
    }
}
