//! `joulewise plan`: which layers to keep in which format?

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use joulewise_engine::{OutputKind, Phase, Strategy, TokenBatch};
use joulewise_models::{LoadedModel, ModelSpec, demo, load, synthetic};
use joulewise_profiler::ProfilerError;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::MeteredDevice;
use joulewise_profiler::planner::document::Study;
use joulewise_profiler::planner::files;
use joulewise_profiler::planner::journal::Journal;
use joulewise_profiler::planner::plan_file::PlanFile;
use joulewise_profiler::planner::probe::{Probe, Sample, read_samples, spread, windows};
use joulewise_profiler::planner::problem::{Limits, Objective};
use joulewise_profiler::planner::request::Request;
use joulewise_profiler::planner::study::{Settings, plan};
use joulewise_profiler::profile::Setup;
use joulewise_profiler::report::plan_table;
use joulewise_profiler::report::table::Table;
use serde_json::json;

use super::eval::ModelEncoder;
use super::profile::{catch_interrupt, prepare_folder};
use crate::meter::{MeterOptions, start};
use crate::options::RunOptions;
use crate::session::{Chosen, Opened, place};
use crate::stages::Stages;
use crate::{Verdict, numbers, output};

/// Rounds of a measurement that only a limit of time ends.
const MOST_ROUNDS: usize = 20;

/// Measure what each format saves and spoils, layer by layer, and choose.
///
/// Writes plan.toml (to edit, and to run with --plan), pareto.json, sensitivity.json and plan.html. What is measured
/// is kept as it goes: after Ctrl-C, --resume goes on, and so it does after --rounds or limits were changed. With --plan FILE, rows that are pinned there stay.
#[derive(Args)]
pub(crate) struct Plan {
    /// Directory, `.gguf` file, `demo:<name>` or `synth:<preset>`.
    #[arg(default_value = "demo:distilbert")]
    model: String,
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    meter: MeterOptions,
    /// Data to plan on: labelled sentences (`sentence`, tab, `label`) for a classifier, a text for a language model; an
    /// excerpt that is part of the program by default.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Held-out data to verify on; by default what --data has left over.
    #[arg(long, value_name = "FILE", requires = "data")]
    verify_data: Option<PathBuf>,
    /// Texts to plan on: sentences, or windows of --tokens tokens.
    #[arg(long, value_parser = numbers::count)]
    texts: Option<NonZeroUsize>,
    /// Texts to verify on.
    #[arg(long, value_parser = numbers::count)]
    verify_texts: Option<NonZeroUsize>,
    /// Mean divergence (KL) from the reference that the plan may have, in nats per answer.
    #[arg(long, default_value_t = 0.01, value_parser = numbers::amount)]
    max_loss: f64,
    /// What the plan is to use least of: joules or seconds of a request, or bytes of the weights.
    #[arg(long, value_enum, default_value = "energy")]
    minimize: Minimize,
    /// Bytes that the weights may have.
    #[arg(long, value_parser = numbers::amount)]
    max_bytes: Option<f64>,
    /// Seconds that a request may take.
    #[arg(long, value_parser = numbers::seconds)]
    max_seconds: Option<f64>,
    /// Strategies to choose from, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    strategies: Vec<Strategy>,
    /// Sequences of a request.
    #[arg(long, default_value = "1", value_parser = numbers::count)]
    batch: NonZeroUsize,
    /// Tokens of a prompt, or of an encoder's input.
    #[arg(long, default_value = "128", value_parser = numbers::count)]
    tokens: NonZeroUsize,
    /// Tokens that a decoder generates behind it.
    #[arg(long, default_value_t = 32, value_parser = numbers::number)]
    generate: usize,
    /// Rounds of each measurement of energy; each runs a format twice and the reference twice, in turns.
    #[arg(long, value_parser = numbers::count)]
    rounds: Option<NonZeroUsize>,
    /// Take energies per layer by regression instead of by share of time: right where layers differ in power, and many
    /// times as long. Always so on a GPU, which does something else when it is stopped between layers.
    #[arg(long)]
    regression: bool,
    /// Seconds after which no round of an energy measurement ends if it can be helped: 3 rounds of regression, one of
    /// random plans and one of the plan are gone through whatever the time. There are as many rounds as fit, up to
    /// --rounds (20 by default then).
    #[arg(long, value_parser = numbers::seconds)]
    time_limit: Option<f64>,
    /// Random plans that test whether losses and savings add up.
    #[arg(long, value_parser = numbers::number)]
    random_plans: Option<usize>,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 0, value_parser = numbers::seed)]
    seed: u64,
    /// A coarse answer: fewer texts, rounds and random plans.
    #[arg(long)]
    quick: bool,
    /// Go on where an interrupted run of the same settings was.
    #[arg(long)]
    resume: bool,
    /// Folder for the files.
    #[arg(long, default_value = "joulewise-out")]
    out: PathBuf,
    /// Print sensitivity.json instead of tables.
    #[arg(long)]
    json: bool,
}

/// [`Objective`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum Minimize {
    Energy,
    Time,
    Bytes,
}

impl From<Minimize> for Objective {
    fn from(minimize: Minimize) -> Self {
        match minimize {
            Minimize::Energy => Objective::Energy,
            Minimize::Time => Objective::Time,
            Minimize::Bytes => Objective::Bytes,
        }
    }
}

impl Plan {
    pub(crate) fn run(mut self) -> Result<Verdict> {
        prepare_folder(&self.out)?;
        let interrupted = catch_interrupt()?;
        let pins = self.run.plan.take();
        let chosen = Chosen::new(&self.run)?;
        let model = load(&ModelSpec::parse(&self.model)?)?;
        let pinned = match &pins {
            Some(path) => PlanFile::read(path)?.pinned(&model.graph)?,
            None => Vec::new(),
        };
        let mut opened = place(model, &self.run, &chosen)?;
        let (probe, holdout, names) = self.probes(&opened)?;
        let mut protocol = Protocol::quick();
        // A module by itself has warm weights, which flatters small ones, so
        // energies are taken in place.
        (protocol.replay_trials, protocol.idle_s, protocol.seed) = (0, 0.0, self.seed);
        protocol.regression = self.regression || matches!(chosen.metered, MeteredDevice::Gpu { .. });
        let meter = start(&self.meter)?;
        let setup = Setup { meter: &meter, device: chosen.metered, work: None, protocol: &protocol };
        let (rounds, random_plans) = if self.quick { (3, 4) } else { (5, 14) };
        let rounds = if self.time_limit.is_some() { MOST_ROUNDS } else { rounds };
        let settings = Settings {
            model: opened.model.name.clone(),
            reference: self.run.strategy,
            strategies: self.strategies(),
            probe: (&probe, names.0.clone()),
            holdout: (&holdout, names.1.clone()),
            request: self.request(&opened, &probe)?,
            limits: Limits {
                sensitivity_nats: Some(self.max_loss),
                size_bytes: self.max_bytes,
                duration_s: self.max_seconds,
            },
            objective: self.minimize.into(),
            pinned,
            energy_rounds: self.rounds.map_or(rounds, NonZeroUsize::get),
            time_limit_s: self.time_limit,
            caches: chosen.caches.clone(),
            random_plans: self.random_plans.unwrap_or(random_plans),
            seed: self.seed,
        };
        settings.check(&opened.session)?;
        let mut journal = self.journal(&settings, opened.session.device(), protocol.regression)?;
        let mut stages = Stages::new();
        let result = plan(
            &mut opened.session,
            opened.model.weights.as_ref(),
            &settings,
            &setup,
            &mut journal,
            &|| interrupted.load(Ordering::Relaxed),
            &mut |step| {
                stages.show(step);
                if interrupted.load(Ordering::Relaxed) {
                    return Err(ProfilerError::Protocol("interrupted".to_owned()));
                }
                Ok(())
            },
        );
        stages.end();
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; what was measured is in {}, and --resume goes on there", self.out.display());
        }
        let (study, pareto, calibration) = result?;
        let files = files::write(&self.out, &study, &pareto, &calibration)?;
        if self.json {
            output::json(&study)?;
        } else {
            print(&study)?;
            for file in files {
                output::line(format!("wrote {}", file.display()))?;
            }
        }
        Ok(Verdict::Passed)
    }

    fn strategies(&self) -> Vec<Strategy> {
        let mut strategies: Vec<Strategy> =
            if self.strategies.is_empty() { Strategy::all().collect() } else { self.strategies.clone() };
        strategies.retain(|strategy| *strategy != self.run.strategy);
        strategies
    }

    /// What a run has in common with another whose results it may take over; limits and pins change no measurement.
    fn journal(&self, settings: &Settings<'_>, device: &str, is_regressed: bool) -> Result<Journal> {
        let strategies: Vec<&str> = settings.strategies.iter().map(|strategy| strategy.name()).collect();
        let data = |(probe, source): &(&Probe, String)| json!([source, probe.texts(), probe.items()]);
        let run = json!({
            "model": settings.model,
            "device": device,
            "reference": settings.reference.name(),
            "strategies": strategies,
            "data": data(&settings.probe),
            "verify_data": data(&settings.holdout),
            "batch": settings.request.prompt.batch(),
            "tokens": settings.request.prompt.tokens(),
            "generate": settings.request.generate,
            "regression": is_regressed,
            "seed": settings.seed,
        });
        Ok(Journal::open(&self.out.join("plan-journal.jsonl"), &run, self.resume)?)
    }

    /// What to plan on, what to verify on, and their names.
    fn probes(&self, opened: &Opened) -> Result<(Probe, Probe, (String, String))> {
        let graph = opened.session.graph();
        let is_generator = graph.output_kind == OutputKind::NextToken;
        let window = if is_generator { self.tokens.get() } else { opened.session.context() };
        if window > opened.session.context() {
            bail!("--tokens {window} is more than {} has room for: {}", self.model, opened.session.context());
        }
        let (few, many) = if is_generator { (8, 32) } else { (128, 512) };
        let (n, n_verify) = if self.quick { (few, few) } else { (many, 2 * many) };
        let n = self.texts.map_or(n, NonZeroUsize::get);
        let n_verify = self.verify_texts.map_or(n_verify, NonZeroUsize::get);
        let (samples, name) = self.samples(&opened.model, self.data.as_deref(), window)?;
        let (first, second, names) = match &self.verify_data {
            Some(path) => {
                let (held_out, held_out_name) = self.samples(&opened.model, Some(path), window)?;
                (spread(samples, n).0, spread(held_out, n_verify).0, (name, held_out_name))
            }
            None => {
                let half = samples.len().div_ceil(2);
                let (first, rest) = spread(samples, n.min(half));
                let rest_name = format!("{name}, texts that were not planned on");
                (first, spread(rest, n_verify).0, (name, rest_name))
            }
        };
        if second.is_empty() {
            bail!("{} holds one text only: planning needs some and verifying others", names.0);
        }
        let pad_id = opened.model.config.pad_token_id().unwrap_or(0);
        Ok((Probe::of(graph, &first, pad_id)?, Probe::of(graph, &second, pad_id)?, names))
    }

    /// All texts of a file, or of what is part of the program.
    fn samples(
        &self,
        model: &LoadedModel,
        data: Option<&Path>,
        window: usize,
    ) -> Result<(Vec<Sample>, String)> {
        let graph = &model.graph;
        if let Some(path) = data {
            let samples = read_samples(graph, path, window, &ModelEncoder::of(model)?)?;
            return Ok((samples, path.display().to_string()));
        }
        let Some(tokenizer) = &model.tokenizer else {
            // Random weights: random tokens are as good as any text.
            let ids = synthetic::prompt(graph.vocab_size, 16 * window);
            return Ok((windows(&ids, window), "random tokens".to_owned()));
        };
        if graph.output_kind == OutputKind::NextToken {
            let ids = tokenizer.encode(demo::WIKITEXT2_EXCERPT)?;
            // The excerpt is short: windows are cut so that there are some to plan on and some to verify on.
            let window = window.min(ids.len() / 8);
            return Ok((windows(&ids, window), "an excerpt of WikiText-2's test text".to_owned()));
        }
        let mut samples = Vec::new();
        for row in demo::SST2_EXCERPT.lines().skip(1) {
            let (sentence, label) = row.split_once('\t').context("the excerpt of SST-2 is damaged")?;
            samples.push(Sample { tokens: tokenizer.encode(sentence)?, label: label.trim().parse().ok() });
        }
        Ok((samples, "64 sentences of SST-2's development set".to_owned()))
    }

    /// A request of the shape that was asked for, of real text where there is some.
    fn request(&self, opened: &Opened, probe: &Probe) -> Result<Request> {
        let (batch, tokens) = (self.batch.get(), self.tokens.get());
        let is_decoder = opened.session.graph().cache.is_some();
        let generate = if is_decoder { self.generate } else { 0 };
        // Decoding is measured one token behind the prompt.
        if tokens + usize::from(generate > 0) > opened.session.context() {
            let limit = opened.session.context().saturating_sub(usize::from(generate > 0));
            bail!("--tokens {tokens} is more than {} has room for: {limit}", self.model);
        }
        let phase = if generate > 0 { Phase::Prefill } else { Phase::Forward };
        opened.session.check_room(phase, batch, tokens)?;
        let text: Vec<u32> = probe.batches.iter().flat_map(|batch| batch.tokens.ids()).copied().collect();
        let ids: Vec<u32> = text.into_iter().cycle().take(batch * tokens).collect();
        Ok(Request { prompt: TokenBatch::dense(ids, batch)?, generate })
    }
}

fn print(study: &Study) -> Result<()> {
    let shape = &study.request;
    let behind = match shape.generated_tokens {
        0 => String::new(),
        generated => format!(", {generated} tokens generated"),
    };
    output::line(format!(
        "{} on {}: a request is {} x {} tokens{behind}; planned on {}, verified on {}",
        study.model, study.device, shape.batch, shape.prompt_tokens, study.probe.source, study.holdout.source
    ))?;
    show(&plan_table::groups(study))?;
    show(&plan_table::kinds(study))?;
    study.findings.conclusion.iter().try_for_each(output::line)?;
    output::line(format!(
        "rank correlations over the groups, losses and errors as {}:",
        study.findings.yardstick
    ))?;
    show(&plan_table::rank_correlations(study))?;
    show(&plan_table::verified(study))?;
    if let Some(fit) = &study.additive_energy {
        show(&plan_table::random_plans(fit))?;
    }
    plan_table::verdict(study).into_iter().try_for_each(output::line)?;
    study.notes.iter().try_for_each(|note| output::line(format!("note: {note}")))
}

fn show(table: &Table) -> Result<()> {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    output::line(output::table(&header, table.rows.iter().cloned()))
}
