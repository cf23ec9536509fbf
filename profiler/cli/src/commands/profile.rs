//! `joulewise profile`: where do time and joules go, layer by layer?

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use joulewise_engine::{OutputKind, Phase, Session, TokenBatch};
use joulewise_models::{ModelSpec, demo, load, synthetic};
use joulewise_profiler::experiment::{Progress, Protocol};
use joulewise_profiler::marker;
use joulewise_profiler::meter::EnergyMeter;
use joulewise_profiler::profile::{self, Setup};
use joulewise_profiler::report;
use joulewise_profiler::report::json::{ModelSummary, PhaseProfile, Profile as Document};
use joulewise_profiler::report::table;
use joulewise_profiler::resume;
use joulewise_profiler::workload::{SessionWorkload, Workload};

use crate::commands::show_table;
use crate::meter::{MeterOptions, start};
use crate::options::RunOptions;
use crate::session::{Chosen, Opened, place};
use crate::{Verdict, numbers, output, self_test};

/// What is profiled when no model is named.
const DEMOS: [&str; 2] = ["demo:distilbert", "demo:gpt2"];
/// Unfinished results are written this often.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// Measure time and energy of every module; encoders in one phase, decoders in prefill and decode apart.
///
/// Inputs are tokenized and in place before measuring starts. Ctrl-C ends the measurement and keeps what it has.
#[derive(Args)]
pub(crate) struct Profile {
    /// Directory, `.gguf` file, `demo:<name>` or `synth:<preset>`; both demo models by default.
    model: Option<String>,
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    meter: MeterOptions,
    /// Sequences per iteration.
    #[arg(long, default_value = "1", value_parser = numbers::count)]
    batch: NonZeroUsize,
    /// Tokens per sequence: of an encoder's input, of a decoder's prompt, and thus in the cache while decoding.
    #[arg(long, default_value = "128", value_parser = numbers::count)]
    tokens: NonZeroUsize,
    /// Trials of each measurement.
    #[arg(long, value_parser = numbers::count)]
    trials: Option<NonZeroUsize>,
    /// Iterations per trial; enough for the sensor to resolve by default. `--trials 5 --iterations 300` is the classic
    /// protocol.
    #[arg(long, value_parser = numbers::count)]
    iterations: Option<NonZeroUsize>,
    /// Rounds go on until the 95 % intervals of the whole and of every class of modules above 2 % of it are this
    /// narrow, relative to the figure.
    #[arg(long, default_value_t = 0.01, value_parser = numbers::amount)]
    target_ci: f64,
    /// Seconds per phase after which no further round begins, once there are two.
    #[arg(long, value_parser = numbers::seconds)]
    time_limit: Option<f64>,
    /// Trials of each module by itself, beside the attribution by regression; 0 for none.
    #[arg(long, value_parser = numbers::number)]
    replays: Option<usize>,
    /// Measure only this phase of a decoder.
    #[arg(long, value_enum)]
    phase: Option<OnlyPhase>,
    /// Do not run modules extra times within the program: no attribution by regression.
    #[arg(long)]
    no_regression: bool,
    /// A module that is measured apart from its like in other layers, by path; may be given again.
    #[arg(long)]
    apart: Vec<String>,
    /// Begin with a square wave of load, by which `joulewise reprice --align` finds the profile in a meter's recording.
    #[arg(long)]
    marker: bool,
    /// A file that is written 1 while the load of `--marker` runs and 0 between: the value of a GPIO line that is wired
    /// to a digital input of an external meter. It stands for `--marker`, too.
    #[arg(long, value_name = "FILE")]
    marker_line: Option<PathBuf>,
    /// Seed of the order of trials.
    #[arg(long, default_value_t = 0, value_parser = numbers::seed)]
    seed: u64,
    /// A coarse look in a few seconds.
    #[arg(long)]
    quick: bool,
    /// Go on with the interrupted profile in the folder: finished phases stay, the unfinished one gets the trials that it
    /// lacks.
    #[arg(long)]
    resume: bool,
    /// Print a row per module, not only per layer and kind.
    #[arg(long)]
    modules: bool,
    /// Folder for profile.json, layers.csv, report.html and trace.json.
    #[arg(long, default_value = "joulewise-out")]
    out: PathBuf,
    /// Print profile.json instead of tables.
    #[arg(long)]
    json: bool,
}

/// A phase of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnlyPhase {
    Prefill,
    Decode,
}

/// How a decoder or encoder is run.
type MakeWorkload = for<'a> fn(&'a mut Session, &TokenBatch) -> Result<SessionWorkload<'a>>;

/// A phase that is measured.
struct Going<'a> {
    /// Name of the model.
    name: &'a str,
    /// Its index in the profile.
    model: usize,
    interrupted: &'a AtomicBool,
    /// What an interrupted profile has of it.
    earlier: Option<PhaseProfile>,
}

impl Profile {
    pub(crate) fn run(self) -> Result<Verdict> {
        prepare_folder(&self.out)?;
        let interrupted = catch_interrupt()?;
        let (mut meter, protocol) = (start(&self.meter)?, self.protocol());
        if let Some(path) = &self.marker_line {
            meter = meter.marking(marker::file(path)?);
        }
        // The first of the idle baselines, before anything is on the device.
        let unloaded = meter.rest(protocol.idle_s);
        let chosen = Chosen::new(&self.run)?;
        let mut document = self.document(&meter, &chosen, &protocol)?;
        let unloaded_j = unloaded.energy(&meter.primary(chosen.metered)).energy_j;
        document.unloaded_power_w =
            document.unloaded_power_w.or(unloaded_j.map(|energy_j| energy_j / unloaded.duration_s));
        document.examination = self_test::last(&meter);
        let models: Vec<&str> = match &self.model {
            Some(model) => vec![model],
            None => DEMOS.to_vec(),
        };
        for name in models {
            let mut opened = place(load(&ModelSpec::parse(name)?)?, &self.run, &chosen)?;
            let model = summary(&opened, &self.run);
            let known = document.models.iter().position(|known| known.model == model);
            let model = known.unwrap_or_else(|| {
                document.add_model(model, opened.session.device());
                document.models.len() - 1
            });
            let batch = self.input(&opened)?;
            let is_decoder = opened.session.graph().cache.is_some();
            let decoder: [MakeWorkload; 2] = [
                |session, batch| Ok(SessionWorkload::prefill(session, batch)?),
                |session, batch| Ok(SessionWorkload::decode(session, batch)?),
            ];
            let encoder: [MakeWorkload; 1] = [|session, batch| Ok(SessionWorkload::forward(session, batch)?)];
            let phases: &[MakeWorkload] = match (is_decoder, self.phase) {
                (false, None) => &encoder,
                (false, Some(_)) => {
                    bail!("{name} is an encoder: it has one phase, and --phase is for decoders")
                }
                (true, None) => &decoder,
                (true, Some(OnlyPhase::Prefill)) => &decoder[..1],
                (true, Some(OnlyPhase::Decode)) => &decoder[1..],
            };
            for make in phases {
                if interrupted.load(Ordering::Relaxed) {
                    break;
                }
                let mut workload = make(&mut opened.session, &batch)?.with_caches(chosen.caches.clone());
                let setup = Setup { meter: &meter, device: chosen.metered, work: None, protocol: &protocol };
                let shape = workload.shape();
                let is_it = |phase: &&PhaseProfile| {
                    (phase.name.as_str(), phase.batch, phase.tokens, phase.kv_length)
                        == (shape.phase.name(), shape.batch, shape.tokens, shape.kv_length)
                };
                let earlier = document.models[model].phases.iter().find(is_it).cloned();
                if earlier.as_ref().is_some_and(|phase| phase.is_complete) {
                    continue;
                }
                let going = Going { name, model, interrupted, earlier };
                let phase = self.measure(going, &mut workload, &setup, &mut document)?;
                if !self.json {
                    self.print(name, &opened.session, &phase)?;
                }
                document.put_phase_of(model, phase);
                report::write(&self.out, &document)?;
            }
        }
        document.is_complete = !interrupted.load(Ordering::Relaxed);
        let files = report::write(&self.out, &document)?;
        if self.json {
            output::json(&document)?;
        } else {
            for file in files {
                output::line(format!("wrote {}", file.display()))?;
            }
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; what was measured until then is in {}", self.out.display());
        }
        Ok(Verdict::Passed)
    }

    fn protocol(&self) -> Protocol {
        let mut protocol = if self.quick { Protocol::quick() } else { Protocol::default() };
        if let Some(trials) = self.trials {
            protocol.trials = trials.get();
            protocol.replay_trials = trials.get();
            protocol.min_trials = trials.get();
            protocol.max_trials = trials.get();
        }
        if let Some(limit_s) = self.time_limit {
            protocol.time_limit_s = limit_s;
            protocol.min_trials = protocol.min_trials.min(2);
        }
        protocol.replay_trials = self.replays.unwrap_or(protocol.replay_trials);
        protocol.iterations = self.iterations.map(NonZeroUsize::get);
        protocol.seed = self.seed;
        protocol.target_relative_ci = self.target_ci;
        protocol.regression = !self.no_regression;
        protocol.marker = self.marker || self.marker_line.is_some();
        protocol.apart.clone_from(&self.apart);
        protocol
    }

    /// Real text where there is a tokenizer, random ids where there is none, cut to the length that was asked for.
    fn input(&self, opened: &Opened) -> Result<TokenBatch> {
        let (batch, tokens) = (self.batch.get(), self.tokens.get());
        let graph = opened.session.graph();
        // Decoding needs room for one more token behind the prompt.
        let limit = opened.session.context().saturating_sub(usize::from(graph.cache.is_some()));
        if tokens > limit {
            bail!("--tokens {tokens} is more than {} has room for: {limit}", opened.model.name);
        }
        let phase = if graph.cache.is_some() { Phase::Prefill } else { Phase::Forward };
        opened.session.check_room(phase, batch, tokens)?;
        let text = match graph.output_kind {
            OutputKind::NextToken => demo::WIKITEXT2_EXCERPT.to_owned(),
            OutputKind::Classes | OutputKind::Embedding => {
                let sentences = demo::SST2_EXCERPT.lines().skip(1).filter_map(|line| line.split('\t').next());
                sentences.collect::<Vec<_>>().join(" ")
            }
        };
        let mut ids = match &opened.model.tokenizer {
            Some(tokenizer) => tokenizer.encode(&text)?,
            None => synthetic::prompt(graph.vocab_size, batch * tokens),
        };
        // Short texts are repeated: what counts is the shape, with the statistics of real text.
        let text_tokens = ids.len();
        while ids.len() < batch * tokens {
            ids.extend_from_within(..text_tokens.min(batch * tokens - ids.len()));
        }
        ids.truncate(batch * tokens);
        Ok(TokenBatch::dense(ids, batch)?)
    }

    /// A new profile, or the interrupted one.
    fn document(&self, meter: &EnergyMeter, chosen: &Chosen, protocol: &Protocol) -> Result<Document> {
        let new = Document::new(meter, chosen.metered, protocol.clone());
        let file = self.out.join("profile.json");
        if !self.resume || !file.exists() {
            return Ok(new);
        }
        let old = Document::read_json(&file)?;
        let sensors = |profile: &Document| -> Vec<(String, bool)> {
            profile.sensors.iter().map(|sensor| (sensor.name.clone(), sensor.is_primary)).collect()
        };
        if old.protocol != new.protocol || sensors(&old) != sensors(&new) {
            bail!(
                "{} was measured by another protocol or other sensors and cannot be resumed",
                file.display()
            );
        }
        Ok(old)
    }

    fn measure(
        &self,
        going: Going<'_>,
        workload: &mut dyn Workload,
        setup: &Setup<'_>,
        document: &mut Document,
    ) -> Result<PhaseProfile> {
        let Going { name, model, interrupted, earlier } = going;
        let phase_name = workload.shape().phase.name();
        let bar = output::progress(&format!("{name} {phase_name}"), 0);
        let record = earlier.as_ref().map(|phase| resume::record(phase, &document.sensors)).transpose()?;
        let mut kept = Instant::now();
        let mut failed = None;
        let mut is_announced = false;
        let mut phase = profile::resume(record.unwrap_or_default(), workload, setup, &mut |update| {
            show(&bar, update.progress.done, update.progress.total);
            if !is_announced {
                is_announced = true;
                let Progress { total, remaining_s, .. } = update.progress;
                let trials = format!("{total} trials in {} rounds", setup.protocol.trials);
                bar.suspend(|| {
                    output::note(format!("{name} {phase_name}: {trials}, about {remaining_s:.0} s"));
                });
            }
            if kept.elapsed() > KEEP_EVERY {
                document.put_phase_of(model, update.phase());
                failed = report::write(&self.out, document).err();
                kept = Instant::now();
            }
            let is_over = interrupted.load(Ordering::Relaxed) || failed.is_some();
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        if let Some(earlier) = earlier {
            phase.power_samples.splice(0..0, earlier.power_samples);
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(phase),
        }
    }

    fn print(&self, name: &str, session: &Session, phase: &PhaseProfile) -> Result<()> {
        let (PhaseProfile { batch, tokens, kv_length, .. }, device) = (phase, session.device());
        let cached = match session.cache_format() {
            Some(format) if *kv_length > 0 => format!(", {kv_length} tokens in the {format} cache"),
            _ => String::new(),
        };
        output::line(format!("\n{name} {}: {batch} x {tokens} tokens{cached}, on {device}", phase.name))?;
        show_table(&table::summary(phase))?;
        show_table(&table::kinds(phase))?;
        show_table(&if self.modules { table::modules(phase) } else { table::layers(phase) })?;
        if phase.regression.is_some() {
            show_table(&table::classes(phase))?;
        }
        output::line(table::closure(phase))?;
        table::regression(phase).map_or(Ok(()), output::line)?;
        phase.notes.iter().try_for_each(|note| output::line(format!("note: {note}")))
    }
}

fn show(bar: &ProgressBar, done: usize, total: usize) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}

fn summary(opened: &Opened, run: &RunOptions) -> ModelSummary {
    let graph = opened.session.graph();
    ModelSummary {
        name: opened.model.name.clone(),
        precision: run.precision_name(),
        n_parameters: graph.parameters() as u64,
        n_layers: graph.blocks() as u32,
        weight_bytes: opened.session.weight_bytes() as u64,
        cache_format: opened.session.cache_format().map(|format| format.name().to_owned()),
    }
}

/// Finds out before measuring whether results can be written.
pub(crate) fn prepare_folder(folder: &Path) -> Result<()> {
    let probe = folder.join(".joulewise-probe");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("cannot write into the folder {}", folder.display()))
}

/// A flag that Ctrl-C raises; a second Ctrl-C ends the process at once.
pub(crate) fn catch_interrupt() -> Result<&'static AtomicBool> {
    static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = INTERRUPTED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    // The order matters: the first signal finds the flag lowered and passes, the second finds it raised.
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, flag.clone())
        .and_then(|_| signal_hook::flag::register(signal_hook::consts::SIGINT, flag.clone()))
        .context("cannot catch Ctrl-C")?;
    Ok(flag)
}
