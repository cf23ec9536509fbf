//! Tasks: what a model is good for, as one score over a data set, measured in joules as it goes.
//!
//! A task is one file and one row of [`TASKS`]. All reading, tokenizing and batching happens before anything
//! is measured; [`Task::evaluate`] then only runs the model and scores what comes out.

pub mod sst2;
mod stsb;
mod wikitext2;

use std::path::Path;

use joulewise_engine::{OutputKind, Session};

use crate::error::{ProfilerError, Result};
use crate::meter::{EnergyMeter, Measurement};
use crate::statistics::Interval;

/// Turns text into token ids; the model's tokenizer, special tokens included.
pub trait Encode {
    /// Token ids of a text.
    ///
    /// # Errors
    /// Whatever the tokenizer says.
    fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, Box<dyn std::error::Error + Send + Sync>>;

    /// The id that fills short rows of a batch.
    fn pad_id(&self) -> u32;
}

/// A row of the table of tasks.
pub struct Task {
    /// Name on the command line and in files.
    pub name: &'static str,
    /// What the score is.
    pub metric: &'static str,
    /// How exactly it is computed; scores of other conventions cannot be compared with it.
    pub convention: &'static str,
    /// What kind of model it needs.
    needs: OutputKind,
    load: Load,
}

/// Reads a data file, and tokenizes and batches what is in it.
type Load = fn(&Path, &Session, &dyn Encode) -> Result<Box<dyn Workload>>;

/// Every task.
pub const TASKS: &[Task] = &[sst2::TASK, wikitext2::TASK, stsb::TASK];

/// Batches that are ready to run, and the score they add up to.
trait Workload {
    /// Number of batches.
    fn batches(&self) -> usize;

    /// Runs one batch and scores it; returns the tokens it had, padding not counted.
    fn run(&mut self, session: &mut Session, batch: usize) -> Result<usize>;

    /// The score over all batches that were run.
    fn score(&self) -> Score;
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The score itself.
    pub score: f64,
    /// 95 % interval, where the task has one.
    pub interval: Option<Interval>,
    /// Items that were scored: sentences, tokens, pairs.
    pub n: usize,
    /// Items that were right, where items are right or wrong.
    pub correct: Option<usize>,
}

/// A score and what it cost.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The score.
    pub score: Score,
    /// Tokens that went through the model, padding not counted.
    pub tokens: usize,
    /// Time and energy of the whole loop: model and scoring, no reading and no tokenizing.
    pub measurement: Measurement,
}

impl Task {
    /// The task with this name.
    ///
    /// # Errors
    /// [`ProfilerError::Protocol`] that names the known ones.
    pub fn find(name: &str) -> Result<&'static Task> {
        TASKS.iter().find(|task| task.name == name).ok_or_else(|| {
            let known = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
            ProfilerError::Protocol(format!("unknown task `{name}`, expected one of {known}"))
        })
    }

    /// Reads, tokenizes and batches a data file, then runs it under the meter.
    ///
    /// `on_batch` is told how many batches are done and how many there are.
    ///
    /// # Errors
    /// Those of the file, the tokenizer and the engine; [`ProfilerError::Protocol`] when the model is of another kind.
    pub fn evaluate(
        &self,
        session: &mut Session,
        encode: &dyn Encode,
        data: &Path,
        meter: &EnergyMeter,
        mut on_batch: impl FnMut(usize, usize),
    ) -> Result<Evaluation> {
        let kind = session.graph().output_kind;
        if kind != self.needs {
            let message =
                format!("task {} needs {}, this model yields {}", self.name, say(self.needs), say(kind));
            return Err(ProfilerError::Protocol(message));
        }
        let mut workload = (self.load)(data, session, encode)?;
        let batches = workload.batches();
        let mut tokens = 0;
        let window = meter.begin();
        for batch in 0..batches {
            tokens += workload.run(session, batch)?;
            on_batch(batch + 1, batches);
        }
        let measurement = meter.end(window);
        Ok(Evaluation { score: workload.score(), tokens, measurement })
    }
}

fn say(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::NextToken => "a language model",
        OutputKind::Classes => "a sequence classifier",
        OutputKind::Embedding => "an embedding model",
    }
}

/// Token ids of text number `index`, cut to the context; the last token (a separator, in encoders) is kept.
pub(crate) fn encode_cut(encode: &dyn Encode, index: usize, text: &str, context: usize) -> Result<Vec<u32>> {
    let mut ids = encode.encode(text).map_err(|source| ProfilerError::Encode { index, source })?;
    if ids.len() > context
        && let Some(last) = ids.pop()
    {
        ids.truncate(context.saturating_sub(1));
        ids.push(last);
    }
    Ok(ids)
}

/// Indices of the sequences in batches of at most `size`, sequences of like length together, so that little is padding.
pub(crate) fn batches_by_length(sequences: &[Vec<u32>], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|index| sequences[*index].len());
    order.chunks(size).map(<[usize]>::to_vec).collect()
}

/// A file name of its own for each text that a test writes.
#[cfg(test)]
fn tests_hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (text, std::process::id()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_name_and_names_are_unique() {
        for task in TASKS {
            assert_eq!(Task::find(task.name).unwrap().metric, task.metric);
        }
        let error = Task::find("mnli").err().unwrap();
        assert_eq!(error.to_string(), "unknown task `mnli`, expected one of sst2, wikitext2, stsb");
    }

    #[test]
    fn batches_hold_every_sequence_once_shortest_first() {
        let sequences: Vec<Vec<u32>> = [5, 1, 3, 2, 4].iter().map(|n| vec![0; *n]).collect();
        assert_eq!(batches_by_length(&sequences, 2), [vec![1, 3], vec![2, 4], vec![0]]);
    }
}
