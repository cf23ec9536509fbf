//! `joulewise study`: small models side by side, each in several strategies.

mod trial;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use joulewise_engine::Strategy;
use joulewise_models::demo;
use joulewise_profiler::planner::journal::Journal;
use joulewise_profiler::report::study::{notes, table, write};
use joulewise_profiler::study::{Failure, Study as Document, Trial, order};
use joulewise_profiler::task::sst2;
use serde_json::json;

use super::profile::{catch_interrupt, prepare_folder};
use super::show_table;
use crate::meter::MeterOptions;
use crate::options::Device;
use crate::{Verdict, numbers, output};

/// Compare small encoders in several strategies: energy, time, accuracy, size, CPU share and peak memory per sentence.
///
/// Each MODEL is run over labelled sentences, one at a time, in processes of its own. `words:MODEL` is the baseline: the
/// model's table of token embeddings alone, averaged over a sentence's words; `words:FILE` a file of word vectors (GloVe,
/// word2vec, fastText). Models without a classifier are read out by the nearest class mean of the other sentences.
/// Writes study.json, study.csv and study.html.
#[derive(Args)]
pub(crate) struct Study {
    /// Models and baselines.
    #[arg(default_values = ["synth:tinybert", "synth:minilm-l6", "demo:distilbert", "words:demo:distilbert"])]
    models: Vec<String>,
    /// Strategies, separated by commas; the first one is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "fp32,fp16,fp8,int8-dynamic,int4,mxfp4,nvfp4")]
    strategies: Vec<Strategy>,
    /// Labelled sentences (`sentence`, tab, `label`, as SST-2's dev.tsv); 64 of SST-2 by default.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// A text whose lines show strategy int8 the range of the activations.
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Threads of the CPU backend; all cores by default.
    #[arg(long, value_parser = numbers::threads)]
    threads: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    meter: MeterOptions,
    /// Trials of each model in each strategy.
    #[arg(long, default_value = "3", value_parser = numbers::count)]
    rounds: std::num::NonZeroUsize,
    /// Seconds that a trial measures at least.
    #[arg(long, default_value_t = 0.5, value_parser = numbers::seconds)]
    seconds: f64,
    /// Seed of the order of trials.
    #[arg(long, default_value_t = 0, value_parser = numbers::seed)]
    seed: u64,
    /// Go on with the interrupted study in the folder: trials that were done are not run again.
    #[arg(long)]
    resume: bool,
    /// Folder for the files.
    #[arg(long, default_value = "joulewise-out")]
    out: PathBuf,
    /// Print study.json instead of the table.
    #[arg(long)]
    json: bool,
    /// Run one trial and print it: what this program starts itself for.
    #[arg(long, hide = true, num_args = 2, value_names = ["MODEL", "STRATEGY"])]
    trial: Vec<String>,
}

impl Study {
    pub(crate) fn run(self) -> Result<Verdict> {
        if let [model, strategy] = &self.trial[..] {
            output::json(&self.measure(model, strategy.parse()?)?)?;
            return Ok(Verdict::Passed);
        }
        // What is wrong with the data or a name is said before anything is measured.
        let sentences = self.sentences()?;
        self.models.iter().try_for_each(|model| trial::check(model))?;
        prepare_folder(&self.out)?;
        let interrupted = catch_interrupt()?;
        let configurations: Vec<(String, String)> = self
            .models
            .iter()
            .flat_map(|model| self.strategies.iter().map(|strategy| (model.clone(), strategy.to_string())))
            .collect();
        let data = self.data.as_deref().map_or("SST-2 excerpt".to_owned(), |path| path.display().to_string());
        let mut journal = self.journal(&data, sentences.len())?;
        let mut study = Document::new(&data, sentences.len());
        let (mut trials, mut failures): (Vec<Trial>, Vec<Failure>) = (Vec::new(), Vec::new());
        let order = order(configurations.len(), self.rounds.get(), self.seed);
        let bar = output::progress("study", order.len() as u64);
        for (at, index) in order.into_iter().enumerate() {
            let (model, strategy) = &configurations[index];
            let has_failed = |failure: &Failure| failure.model == *model && failure.strategy == *strategy;
            bar.set_message(format!("{model} {strategy}"));
            if !failures.iter().any(has_failed) {
                let key = format!("trial {at}");
                let kept: Option<Trial> = journal.get(&key)?;
                let is_kept = kept.is_some();
                let trial = kept.map_or_else(|| start(model, strategy), Ok);
                if interrupted.load(Ordering::Relaxed) {
                    break;
                }
                match trial {
                    Ok(trial) => {
                        if !is_kept {
                            journal.put(&key, &trial)?;
                        }
                        trials.push(trial);
                    }
                    Err(error) => failures.push(Failure {
                        model: model.clone(),
                        strategy: strategy.clone(),
                        reason: format!("{error:#}"),
                    }),
                }
                study.set_trials(&configurations, &trials);
                study.failures.clone_from(&failures);
                if !trials.is_empty() {
                    write(&self.out, &study)?;
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if let (true, Some(failure)) = (trials.is_empty(), failures.first()) {
            bail!("{} in {}: {}", failure.model, failure.strategy, failure.reason);
        }
        study.is_complete = !interrupted.load(Ordering::Relaxed);
        let files = write(&self.out, &study)?;
        self.print(&study, &files)?;
        if !study.is_complete {
            bail!("interrupted; what was measured until then is in {}, --resume goes on", self.out.display());
        }
        Ok(if study.failures.is_empty() { Verdict::Passed } else { Verdict::Failed })
    }

    fn print(&self, study: &Document, files: &[PathBuf]) -> Result<()> {
        if self.json {
            return output::json(study);
        }
        show_table(&table(study))?;
        notes(study).iter().try_for_each(|note| output::line(format!("note: {note}")))?;
        for Failure { model, strategy, reason } in &study.failures {
            output::line(format!("failed: {model} in {strategy}: {reason}"))?;
        }
        files.iter().try_for_each(|file| output::line(format!("wrote {}", file.display())))
    }

    /// What a study has in common with another whose trials it may take over. More rounds go on where fewer ended.
    fn journal(&self, data: &str, n_sentences: usize) -> Result<Journal> {
        let strategies: Vec<String> = self.strategies.iter().map(Strategy::to_string).collect();
        let run = json!({
            "models": self.models,
            "strategies": strategies,
            "data": [data, n_sentences],
            "device": format!("{:?}", self.device).to_lowercase(),
            "calibrate": self.calibrate,
            "threads": self.threads,
            "seconds": self.seconds,
            "seed": self.seed,
        });
        Ok(Journal::open(&self.out.join("study-journal.jsonl"), &run, self.resume)?)
    }

    /// The sentences and their labels.
    fn sentences(&self) -> Result<Vec<(String, u32)>> {
        Ok(match &self.data {
            Some(path) => sst2::read(path)?,
            None => sst2::parse(demo::SST2_EXCERPT, Path::new("the built-in excerpt of SST-2"))?,
        })
    }
}

/// Runs this program again for one trial, with the same options.
fn start(model: &str, strategy: &str) -> Result<Trial> {
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    // Behind the program's name comes `study`; options of the user follow those of the trial.
    let mut arguments = std::env::args_os().skip(1);
    let output = Command::new(program)
        .args(arguments.next())
        .args(["--trial", model, strategy])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("a trial cannot be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let sentence = said.lines().find_map(|line| line.strip_prefix("error: "));
        return Err(match sentence {
            Some(sentence) => anyhow!("{sentence}"),
            None => anyhow!("the trial ended with {}", output.status),
        });
    }
    serde_json::from_slice(&output.stdout).context("a trial's result cannot be read")
}
