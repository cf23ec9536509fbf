//! `joulewise eval`: how good is the model at a task, and what does an answer cost?

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_engine::Session;
use joulewise_models::{LoadedModel, Tokenizer};
use joulewise_profiler::energy::Energy;
use joulewise_profiler::meter::EnergyMeter;
use joulewise_profiler::metrics::{Metric, Value};
use joulewise_profiler::planner::journal::Journal;
use joulewise_profiler::process;
use joulewise_profiler::report::quantity::si;
use joulewise_profiler::task::{Encode, Evaluation, Measuring, Task};
use serde::Serialize;
use serde_json::json;

use crate::meter::{self, MeterOptions};
use crate::options::ModelOptions;
use crate::session::open;
use crate::{Verdict, output};

/// Score a model on a task, with energy, EOR (score per Wh) and TWEOR (score per Wh and h).
#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    model: ModelOptions,
    /// sst2 (accuracy), wikitext2 (token perplexity) or stsb (Spearman correlation).
    #[arg(long)]
    task: String,
    /// The data set's file: SST-2 `dev.tsv`, WikiText-2 `test.txt`, STS-B CSV.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    meter: MeterOptions,
    /// Keep the outcome of every batch in this file, so that an interrupted evaluation can go on.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Go on with the evaluation in the journal.
    #[arg(long, requires = "journal")]
    resume: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Report {
    task: &'static str,
    model: String,
    device: String,
    strategy: String,
    /// Of the cache that scored, where it rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache: Option<&'static str>,
    metric: &'static str,
    score: f64,
    score_low: Option<f64>,
    score_high: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correct: Option<usize>,
    n: usize,
    convention: &'static str,
    tokens: usize,
    duration_s: f64,
    tokens_per_s: f64,
    cpu_time_s: Option<f64>,
    weight_bytes: usize,
    peak_memory_bytes: Option<u64>,
    energy: EnergyReport,
}

/// What the evaluation cost.
#[derive(Serialize)]
struct EnergyReport {
    energy_j: Option<f64>,
    systematic_j: f64,
    upper_bound_j: Option<f64>,
    provenance: &'static str,
    sensor: String,
    scope: String,
    per_token_j: Option<f64>,
    per_item_j: Option<f64>,
    eor_score_per_wh: Option<f64>,
    tweor_score_per_wh_h: Option<f64>,
}

/// The model's tokenizer, as tasks use it.
pub(crate) struct ModelEncoder<'a> {
    tokenizer: &'a Tokenizer,
    pad_id: u32,
}

impl<'a> ModelEncoder<'a> {
    pub(crate) fn of(model: &'a LoadedModel) -> Result<Self> {
        Ok(ModelEncoder { tokenizer: model.tokenizer()?, pad_id: model.config.pad_token_id().unwrap_or(0) })
    }
}

impl Encode for ModelEncoder<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.tokenizer.encode(text)?)
    }

    fn pad_id(&self) -> u32 {
        self.pad_id
    }
}

impl Eval {
    pub(crate) fn run(self) -> Result<Verdict> {
        let task = Task::find(&self.task)?;
        let mut opened = open(&self.model.model, &self.model.run)?;
        let encoder = ModelEncoder::of(&opened.model)?;
        let meter = meter::start(&self.meter)?;
        let mut journal = self.journal(&opened.session, &meter)?;
        let measuring = Measuring { meter: &meter, device: opened.metered, journal: journal.as_mut() };
        let bar = output::progress(task.name, 1);
        let evaluation =
            task.evaluate(&mut opened.session, &encoder, &self.data, measuring, |done, all| {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            })?;
        bar.finish_and_clear();
        let energy = EnergyReport::of(&evaluation, &evaluation.energy);
        let Evaluation { score, tokens, duration_s, cpu_time_s, .. } = evaluation;
        let report = Report {
            task: task.name,
            device: opened.session.device().to_owned(),
            strategy: self.model.run.precision_name(),
            kv_cache: rounding_cache(&opened.session),
            metric: task.metric,
            score: score.score,
            score_low: score.interval.map(|interval| interval.low),
            score_high: score.interval.map(|interval| interval.high),
            correct: score.correct,
            n: score.n,
            convention: task.convention,
            tokens,
            duration_s,
            tokens_per_s: tokens as f64 / duration_s,
            cpu_time_s,
            weight_bytes: opened.session.weight_bytes(),
            peak_memory_bytes: process::peak_memory_bytes(),
            energy,
            model: opened.model.name,
        };
        if self.json {
            output::json(&report)?
        } else {
            report.print()?
        }
        Ok(Verdict::Passed)
    }

    /// The journal that was asked for; it belongs to this model, task, precision, device and data.
    fn journal(&self, session: &Session, meter: &EnergyMeter) -> Result<Option<Journal>> {
        let Some(path) = &self.journal else { return Ok(None) };
        let data_bytes = std::fs::metadata(&self.data).map_or(0, |data| data.len());
        let sensors: Vec<&str> = meter.sensors().iter().map(|sensor| sensor.name.as_str()).collect();
        let run = json!({
            "model": self.model.model,
            "task": self.task,
            "data": self.data,
            "data bytes": data_bytes,
            "precision": self.model.run.precision_name(),
            "kv cache": rounding_cache(session),
            "device": session.device(),
            "context": session.context(),
            "sensors": sensors,
        });
        Ok(Some(Journal::open(path, &run, self.resume)?))
    }
}

/// The format of a cache that makes a difference to the score.
fn rounding_cache(session: &Session) -> Option<&'static str> {
    session.cache_format().filter(|_| session.rounds_cache()).map(|format| format.name())
}

impl EnergyReport {
    fn of(evaluation: &Evaluation, energy: &Energy) -> Self {
        let score = Value { value: evaluation.score.score, ci95: None };
        let per = |count: usize| energy.energy_j.map(|energy_j| energy_j / count as f64);
        EnergyReport {
            energy_j: energy.energy_j,
            systematic_j: energy.systematic_j,
            upper_bound_j: energy.upper_bound_j,
            provenance: energy.provenance.name(),
            sensor: energy.sensor.clone(),
            scope: energy.scope.clone(),
            per_token_j: per(evaluation.tokens),
            per_item_j: per(evaluation.score.n),
            eor_score_per_wh: Metric::eor(score, energy).value,
            tweor_score_per_wh_h: Metric::tweor(score, energy, evaluation.duration_s).value,
        }
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        let interval = match (self.score_low, self.score_high) {
            (Some(low), Some(high)) => format!("{low:.4} to {high:.4}"),
            _ => "-".to_owned(),
        };
        let score = match self.correct {
            Some(correct) => format!("{:.4} ({correct} of {})", self.score, self.n),
            None => format!("{:.4}", self.score),
        };
        let EnergyReport { provenance, systematic_j, .. } = self.energy;
        let joules = |value: Option<f64>, unit: &str| {
            value.map_or("unresolved".to_owned(), |value| format!("{} ({provenance})", si(value, unit)))
        };
        let rows = [
            (self.metric, score),
            ("95 % interval", interval),
            ("items", self.n.to_string()),
            ("tokens", format!("{} at {:.0} tokens/s", self.tokens, self.tokens_per_s)),
            ("time", si(self.duration_s, "s")),
            ("energy", joules(self.energy.energy_j, "J")),
            ("systematic", format!("± {}", si(systematic_j, "J"))),
            ("energy per token", joules(self.energy.per_token_j, "J")),
            ("EOR", joules(self.energy.eor_score_per_wh, "score/Wh")),
            ("TWEOR", joules(self.energy.tweor_score_per_wh_h, "score/(Wh h)")),
            ("weights", si(self.weight_bytes as f64, "B")),
        ];
        let cache = self.kv_cache.map_or_else(String::new, |format| format!(", {format} cache"));
        let Report { model, device, strategy, task, .. } = self;
        output::line(format!("{model} on {device}, {strategy}{cache}, task {task}"))?;
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
        output::line(output::table(&[], rows))?;
        output::line(format!(
            "{}; energy by {} over {}",
            self.convention, self.energy.sensor, self.energy.scope
        ))
    }
}
