//! Trials, put together: a row per model and strategy.

use serde::{Deserialize, Serialize};

use super::Trial;
use crate::clock;
use crate::energy::Energy;
use crate::environment::Environment;
use crate::statistics::{Interval, Summary, wilson};

/// A whole study, as `study.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Study {
    /// Always `joulewise-study`.
    pub schema: String,
    /// Version of the format.
    pub schema_version: u32,
    /// Program and version that wrote it.
    pub generator: String,
    /// Begin, in seconds since 1970 (UTC).
    pub created_unix_s: f64,
    /// False in a file that was written while measuring went on, or after an interruption.
    pub is_complete: bool,
    /// The machine.
    pub environment: Environment,
    /// What the sentences are.
    pub data: String,
    /// Number of sentences.
    pub n_sentences: usize,
    /// A row per model and strategy, in the order in which they were asked for.
    pub rows: Vec<Row>,
    /// What could not be run.
    pub failures: Vec<Failure>,
}

/// A model in a strategy that could not be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The model.
    pub model: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Why, in one sentence.
    pub reason: String,
}

/// What the trials of a model in a strategy add up to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The model, as the user named it.
    pub model: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Where it ran.
    pub device: String,
    /// How answers were read out.
    pub readout: super::Readout,
    /// Trials behind the figures.
    pub n_trials: usize,
    /// Share of right answers; `None` where weights are random.
    pub accuracy: Option<f64>,
    /// Its 95 % interval (Wilson).
    pub accuracy_interval: Option<Interval>,
    /// Share of sentences with the same answer as the model's first strategy.
    pub agreement: Option<f64>,
    /// Bytes of the weights as they are kept.
    pub weight_bytes: u64,
    /// Time of a sentence.
    pub sentence_time_s: f64,
    /// Half width of its 95 % interval over trials.
    pub sentence_time_ci95_s: Option<f64>,
    /// Energy of a sentence.
    pub sentence_energy: Energy,
    /// Processor time over what all cores had to give.
    pub cpu_share: Option<f64>,
    /// The most memory that a process of it had in RAM.
    pub peak_memory_bytes: Option<u64>,
}

impl Study {
    /// A study of which nothing has been measured yet.
    pub fn new(data: &str, n_sentences: usize) -> Self {
        Study {
            schema: "joulewise-study".to_owned(),
            schema_version: 1,
            generator: format!("joulewise {}", env!("CARGO_PKG_VERSION")),
            created_unix_s: clock::to_unix_s(clock::now_s()),
            is_complete: false,
            environment: Environment::read(),
            data: data.to_owned(),
            n_sentences,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes in all trials there are, in any order; `configurations` are models and strategies in the order of the
    /// rows.
    pub fn set_trials(&mut self, configurations: &[(String, String)], trials: &[Trial]) {
        self.rows.clear();
        for (model, strategy) in configurations {
            let of = |trial: &&Trial| trial.model == *model && trial.strategy == *strategy;
            let trials: Vec<&Trial> = trials.iter().filter(of).collect();
            self.rows.extend(Row::of(&trials, self.environment.n_cores));
        }
        let answers = |row: &Row| {
            let same = |trial: &&Trial| trial.model == row.model && trial.strategy == row.strategy;
            trials.iter().find(same).map(|trial| &trial.measured.answers)
        };
        let agreements: Vec<Option<f64>> = self
            .rows
            .iter()
            .map(|row| {
                let first = configurations.iter().find(|(model, _)| *model == row.model)?;
                let reference =
                    self.rows.iter().find(|row| (&row.model, &row.strategy) == (&first.0, &first.1))?;
                let (ours, theirs) = (answers(row)?, answers(reference)?);
                let same = ours.iter().zip(theirs).filter(|(a, b)| a == b).count();
                Some(same as f64 / ours.len() as f64)
            })
            .collect();
        self.rows.iter_mut().zip(agreements).for_each(|(row, agreement)| row.agreement = agreement);
    }
}

impl Row {
    /// `None` of no trials.
    fn of(trials: &[&Trial], n_cores: usize) -> Option<Self> {
        let first = *trials.first()?;
        let n = first.measured.answers.len();
        let of_sentence = |trial: &&Trial| trial.measured.duration_s / trial.measured.sentences as f64;
        let time = Summary::of(&trials.iter().map(of_sentence).collect::<Vec<_>>());
        let energies: Vec<Energy> = trials
            .iter()
            .map(|trial| trial.measured.energy.scaled(1.0 / trial.measured.sentences as f64))
            .collect();
        let shares: Option<Vec<f64>> = trials
            .iter()
            .map(|trial| Some(trial.measured.cpu_time_s? / (trial.measured.duration_s * n_cores as f64)))
            .collect();
        let is_trained = first.is_trained;
        Some(Row {
            model: first.model.clone(),
            strategy: first.strategy.clone(),
            device: first.device.clone(),
            readout: first.measured.readout,
            n_trials: trials.len(),
            accuracy: is_trained.then(|| first.measured.correct as f64 / n as f64),
            accuracy_interval: wilson(first.measured.correct, n).filter(|_| is_trained),
            agreement: None,
            weight_bytes: first.weight_bytes,
            sentence_time_s: time.mean,
            sentence_time_ci95_s: time.ci95,
            sentence_energy: Energy::mean(&energies),
            cpu_share: shares.map(|shares| Summary::of(&shares).mean),
            peak_memory_bytes: trials.iter().filter_map(|trial| trial.peak_memory_bytes).max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::Provenance;
    use crate::study::{Measured, Readout};

    fn trial(strategy: &str, duration_s: f64, answers: &[u32]) -> Trial {
        Trial {
            model: "m".to_owned(),
            strategy: strategy.to_owned(),
            device: "d".to_owned(),
            is_trained: true,
            weight_bytes: 10,
            peak_memory_bytes: Some(100 + duration_s as u64),
            measured: Measured {
                readout: Readout::Classes,
                answers: answers.to_vec(),
                correct: answers.iter().filter(|answer| **answer == 1).count(),
                sentences: 4 * answers.len(),
                duration_s,
                cpu_time_s: Some(duration_s),
                energy: Energy {
                    energy_j: Some(2.0 * duration_s),
                    provenance: Provenance::Measured,
                    n: 1,
                    ..Energy::unresolved("s", "c", None)
                },
            },
        }
    }

    #[test]
    fn trials_add_up_to_rows() {
        let mut study = Study::new("x", 2);
        study.environment.n_cores = 2;
        let configurations = ["fp32", "int8", "int4"].map(|strategy| ("m".to_owned(), strategy.to_owned()));
        study.set_trials(
            &configurations,
            &[trial("int8", 3.0, &[1, 1]), trial("fp32", 8.0, &[1, 0]), trial("int8", 5.0, &[1, 1])],
        );
        let [fp32, int8] = &study.rows[..] else { panic!("two strategies have trials") };
        assert_eq!((fp32.strategy.as_str(), fp32.accuracy, fp32.agreement), ("fp32", Some(0.5), Some(1.0)));
        assert_eq!((int8.accuracy, int8.agreement, int8.n_trials), (Some(1.0), Some(0.5), 2));
        // 8 sentences each: 4 s on average, at 2 W on one of two cores.
        assert_eq!((int8.sentence_time_s, int8.sentence_energy.energy_j), (0.5, Some(1.0)));
        assert_eq!((int8.cpu_share, int8.peak_memory_bytes), (Some(0.5), Some(105)));
        // Two values 1/4 apart: t(0.975, 1) is 12.706, the standard error 1/8.
        assert!((int8.sentence_time_ci95_s.unwrap() - 12.706 / 8.0).abs() < 1e-4);
        assert_eq!(fp32.sentence_time_ci95_s, None);
    }

    #[test]
    fn random_weights_have_no_accuracy() {
        let mut study = Study::new("x", 2);
        let trial = Trial { is_trained: false, ..trial("fp32", 1.0, &[1, 1]) };
        study.set_trials(&[("m".to_owned(), "fp32".to_owned())], &[trial]);
        assert_eq!((study.rows[0].accuracy, study.rows[0].agreement), (None, Some(1.0)));
    }
}
