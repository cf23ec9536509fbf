//! Tasks: what a model is good for, as one score over a data set, measured in joules as it goes.
//!
//! A task is one file and one row of [`TASKS`]. All reading, tokenizing and batching happens before anything
//! is measured; [`Task::evaluate`] then only runs the model and scores what comes out.

pub mod sst2;
mod stsb;
mod wikitext2;

use std::path::Path;

use joulewise_engine::{OutputKind, Session};
use serde::{Deserialize, Serialize};

use crate::energy::Energy;
use crate::error::{ProfilerError, Result};
use crate::meter::{EnergyMeter, Measurement, MeteredDevice};
use crate::planner::journal::Journal;
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

/// Batches that are ready to run, and the score that their outcomes add up to.
trait Workload {
    /// Number of batches.
    fn batches(&self) -> usize;

    /// Runs one batch and scores it.
    fn run(&self, session: &mut Session, batch: usize) -> Result<Outcome>;

    /// The score over the outcomes of all batches, in order.
    fn score(&self, outcomes: &[Outcome]) -> Score;
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outcome {
    /// Tokens that it had, padding not counted.
    tokens: usize,
    /// What the task scores by.
    values: Vec<f64>,
}

/// Batches that were run under one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Segment {
    outcomes: Vec<Outcome>,
    duration_s: f64,
    cpu_time_s: Option<f64>,
    energy: Energy,
}

/// Under a journal, windows are this long: so much is lost by an interruption.
const SEGMENT_S: f64 = 2.0;

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
    /// Time of the whole loop: model and scoring, no reading and no tokenizing.
    pub duration_s: f64,
    /// Processor time of this process meanwhile.
    pub cpu_time_s: Option<f64>,
    /// Energy of the same, by the sensors that count.
    pub energy: Energy,
}

/// With what an evaluation is measured.
pub struct Measuring<'a> {
    /// The sensors.
    pub meter: &'a EnergyMeter,
    /// Which of them count.
    pub device: MeteredDevice,
    /// Where finished batches are kept, and where those of an interrupted evaluation are.
    pub journal: Option<&'a mut Journal>,
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

    /// Reads, tokenizes and batches a data file, then runs it under the meter. Batches that the journal holds are not run
    /// again.
    ///
    /// `on_batch` is told how many batches are done and how many there are.
    ///
    /// # Errors
    /// Those of the file, the tokenizer, the journal and the engine; [`ProfilerError::Protocol`] when the model is of
    /// another kind.
    pub fn evaluate(
        &self,
        session: &mut Session,
        encode: &dyn Encode,
        data: &Path,
        measuring: Measuring<'_>,
        mut on_batch: impl FnMut(usize, usize),
    ) -> Result<Evaluation> {
        let kind = session.graph().output_kind;
        if kind != self.needs {
            let message =
                format!("task {} needs {}, this model yields {}", self.name, say(self.needs), say(kind));
            return Err(ProfilerError::Protocol(message));
        }
        let Measuring { meter, device, mut journal } = measuring;
        let workload = (self.load)(data, session, encode)?;
        let (batches, primary) = (workload.batches(), meter.primary(device));
        let mut segments: Vec<Segment> = Vec::new();
        let mut done = 0;
        if let Some(journal) = &journal {
            while let Some(segment) = journal.get::<Segment>(&segment_key(segments.len()))? {
                done += segment.outcomes.len();
                segments.push(segment);
            }
        }
        while done < batches {
            let (window, begin_s) = (meter.begin(), meter.clock().now_s());
            let mut outcomes = Vec::new();
            while done < batches && (journal.is_none() || meter.clock().now_s() - begin_s < SEGMENT_S) {
                outcomes.push(workload.run(session, done)?);
                done += 1;
                on_batch(done, batches);
            }
            let measurement = meter.end(window);
            let energy = measurement.energy(&primary);
            let Measurement { duration_s, cpu_time_s, .. } = measurement;
            let segment = Segment { outcomes, duration_s, cpu_time_s, energy };
            if let Some(journal) = &mut journal {
                journal.put(&segment_key(segments.len()), &segment)?;
            }
            segments.push(segment);
        }
        let outcomes: Vec<Outcome> = segments.iter().flat_map(|segment| segment.outcomes.clone()).collect();
        Ok(Evaluation {
            score: workload.score(&outcomes),
            tokens: outcomes.iter().map(|outcome| outcome.tokens).sum(),
            duration_s: segments.iter().map(|segment| segment.duration_s).sum(),
            cpu_time_s: segments.iter().map(|segment| segment.cpu_time_s).sum(),
            energy: Energy::sum(segments.iter().map(|segment| &segment.energy)),
        })
    }
}

fn segment_key(index: usize) -> String {
    format!("segment {index}")
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

/// Indices of items of these lengths in batches of at most `size`, like lengths together, so that little is padding.
pub(crate) fn batches_by_length(lengths: &[usize], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| lengths[*index]);
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
        assert_eq!(batches_by_length(&[5, 1, 3, 2, 4], 2), [vec![1, 3], vec![2, 4], vec![0]]);
    }
}
