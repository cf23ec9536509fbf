//! `profile.json`: the wire format of a profile, version 1.
//!
//! Everything is in SI units, named in the field. A figure of energy is an [`Energy`] object wherever it stands:
//!
//! ```json
//! { "energy_j": 0.0123, "upper_bound_j": null, "ci95_j": 0.0002, "n": 5, "systematic_j": 0.006,
//!   "provenance": "estimated", "sensor": "estimator", "scope": "this process" }
//! ```
//! `energy_j` is `null` when no sensor resolved the window (`provenance` is then `unresolved`), never 0.
//! `ci95_j` is the half width of the 95 % confidence interval over `n` trials; `systematic_j` does not shrink with
//! trials and is kept apart. `provenance` is one of `measured`, `measured-low-resolution`, `derived`, `estimated`,
//! `unresolved`.
//!
//! The object of the file is a [`Profile`]; its `models` hold one [`ModelProfile`] each, whose `phases` hold one
//! [`PhaseProfile`] for each phase that was measured. A reader of version 1 may meet further fields and ignores them; a change that breaks readers raises `schema_version`.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::energy::{Energy, Provenance};
use crate::environment::Environment;
use crate::error::{ProfilerError, Result};
use crate::experiment::Protocol;
use crate::meter::{EnergyMeter, MeteredDevice};
use crate::metrics::Metric;
use crate::process;
use crate::sensor::{SensorInfo, SensorKind};
use crate::statistics::Summary;

/// Value of the field `schema`.
pub const SCHEMA: &str = "joulewise-profile";
/// Version that this program writes.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole profile: one or more models on one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// Always [`SCHEMA`].
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
    /// Everything that can tell joules here.
    pub sensors: Vec<SensorRow>,
    /// How it was measured.
    pub protocol: Protocol,
    /// The models, in the order in which they were measured.
    pub models: Vec<ModelProfile>,
    /// What measuring took of the machine.
    pub process: ProcessUsage,
}

/// One model of a profile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelProfile {
    /// What was run.
    pub model: ModelSummary,
    /// Where it ran, as the backend describes itself.
    pub device: String,
    /// The phases, in the order in which they were measured.
    pub phases: Vec<PhaseProfile>,
}

/// The model that was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Name or path, as the user gave it.
    pub name: String,
    /// Name of the precision strategy or plan.
    pub precision: String,
    /// Parameters, tied ones once.
    pub n_parameters: u64,
    /// Layers.
    pub n_layers: u32,
    /// Bytes of the weights on the device.
    pub weight_bytes: u64,
}

/// One sensor of the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SensorRow {
    /// Unique name.
    pub name: String,
    /// `energy-counter` or `power`.
    pub kind: String,
    /// What it covers.
    pub scope: String,
    /// How often its value changes.
    pub update_period_s: f64,
    /// Its smallest step.
    pub resolution_j: f64,
    /// Relative systematic error.
    pub systematic_relative: f64,
    /// The best its figures can claim.
    pub provenance: Provenance,
    /// Whether the figures of this profile are its.
    pub is_primary: bool,
    /// Where its values come from.
    pub description: String,
}

impl SensorRow {
    /// The row of a sensor.
    pub fn of(info: &SensorInfo, is_primary: bool) -> Self {
        SensorRow {
            name: info.name.clone(),
            kind: match info.kind {
                SensorKind::EnergyCounter => "energy-counter".to_owned(),
                SensorKind::Power => "power".to_owned(),
            },
            scope: info.scope.to_string(),
            update_period_s: info.update_period_s,
            resolution_j: info.resolution_j,
            systematic_relative: info.systematic_relative,
            provenance: info.provenance,
            is_primary,
            description: info.description.clone(),
        }
    }
}

/// What this process used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Time since the begin of the profile.
    pub duration_s: f64,
    /// Processor time of all threads.
    pub cpu_time_s: Option<f64>,
    /// The most memory in RAM at one time.
    pub peak_memory_bytes: Option<u64>,
}

/// A duration with its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Mean.
    pub duration_s: f64,
    /// Half width of the 95 % confidence interval over `n` trials.
    pub ci95_s: Option<f64>,
    /// Trials.
    pub n: usize,
}

impl Timing {
    /// The mean of trials.
    pub fn of(trials_s: &[f64]) -> Self {
        let summary = Summary::of(trials_s);
        Timing { duration_s: summary.mean, ci95_s: summary.ci95, n: summary.n }
    }
}

/// One phase of a model: `forward` (encoders), `prefill`, `decode`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseProfile {
    /// Name of the phase.
    pub name: String,
    /// Sequences.
    pub batch: usize,
    /// New tokens per sequence and iteration.
    pub tokens: usize,
    /// Tokens that stand in the cache before each iteration.
    pub kv_length: usize,
    /// Whether all planned trials were run.
    pub is_complete: bool,
    /// Iterations of the warm-up.
    pub warm_up_iterations: usize,
    /// The whole program in one piece.
    pub whole: Whole,
    /// Which of the two attributions the report draws: `replay`, or `first-order` where that is not resolved.
    pub attribution: Attribution,
    /// One row per module, in program order.
    pub modules: Vec<ModuleRow>,
    /// Sums over the modules of a layer, with what stands before and behind the layers.
    pub layers: Vec<GroupRow>,
    /// Sums over the modules of a kind.
    pub kinds: Vec<GroupRow>,
    /// The sums of the rows against the whole.
    pub closure: Closure,
    /// Figures per token, sample and joule.
    pub metrics: Vec<Metric>,
    /// One run, module by module.
    pub timeline: Vec<TimelineSpan>,
    /// Power over the time of the trials, by the primary sensor.
    pub power_samples: Vec<PowerSample>,
    /// Every window that was measured.
    pub windows: Vec<WindowRow>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// How energy is shared out among modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribution {
    /// Share of the time times mean power.
    FirstOrder,
    /// Each module by itself, over and over.
    Replay,
}

impl Attribution {
    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Attribution::FirstOrder => "first-order",
            Attribution::Replay => "replay",
        }
    }
}

/// The whole program, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// Iterations of a trial, on average.
    pub iterations: usize,
    /// Time.
    pub time: Timing,
    /// Energy by the primary sensors.
    pub energy: Energy,
    /// Energy over that of the idle machine for the same time.
    pub dynamic_energy: Energy,
    /// Mean power.
    pub power_w: Option<f64>,
    /// Power of the idle machine with the model loaded.
    pub idle_power_w: Option<f64>,
    /// Processor time of this process.
    pub cpu_time_s: Option<f64>,
    /// Energy by each sensor of the machine. Scopes may overlap: these do not add up.
    pub by_sensor: Vec<Energy>,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read, by count.
    pub bytes_read: f64,
    /// Bytes written, by count.
    pub bytes_written: f64,
}

/// One module, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModuleRow {
    /// Index in the model.
    pub id: u32,
    /// The checkpoint's own name.
    pub path: String,
    /// What it does.
    pub kind: String,
    /// Its layer.
    pub block: Option<u32>,
    /// Number format of its matrices.
    pub format: Option<String>,
    /// Bytes of its matrices.
    pub weight_bytes: u64,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read, by count.
    pub bytes_read: f64,
    /// Bytes written, by count.
    pub bytes_written: f64,
    /// Time within the whole program.
    pub time: Timing,
    /// Share of the time of all modules.
    pub time_share: f64,
    /// Time by itself, over and over.
    pub replay_time: Option<Timing>,
    /// Its share of the time times mean power.
    pub first_order: Energy,
    /// Energy by itself, over and over.
    pub replay: Option<Energy>,
    /// Whether it was replayed itself; else an equal module of another layer stands for it.
    pub is_replayed: bool,
}

/// Several modules together, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupRow {
    /// Layer or kind.
    pub name: String,
    /// Modules in it.
    pub n_modules: usize,
    /// Bytes of their matrices.
    pub weight_bytes: u64,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read and written, by count.
    pub bytes: f64,
    /// Time within the whole program.
    pub time: Timing,
    /// Share of the time of all modules.
    pub time_share: f64,
    /// Share of the time times mean power.
    pub first_order: Energy,
    /// Sum of the replayed modules.
    pub replay: Option<Energy>,
}

impl ModuleRow {
    /// Its energy by the chosen attribution.
    pub fn energy(&self, attribution: Attribution) -> &Energy {
        choose(attribution, &self.first_order, self.replay.as_ref())
    }

    /// The time that belongs to that energy.
    pub fn timing(&self, attribution: Attribution) -> Timing {
        match (attribution, self.replay_time) {
            (Attribution::Replay, Some(replay_time)) => replay_time,
            _ => self.time,
        }
    }
}

impl GroupRow {
    /// Its energy by the chosen attribution.
    pub fn energy(&self, attribution: Attribution) -> &Energy {
        choose(attribution, &self.first_order, self.replay.as_ref())
    }
}

fn choose<'a>(attribution: Attribution, first_order: &'a Energy, replay: Option<&'a Energy>) -> &'a Energy {
    match (attribution, replay) {
        (Attribution::Replay, Some(replay)) => replay,
        _ => first_order,
    }
}

/// Whether the rows add up to the whole. Nothing is rescaled to make them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closure {
    /// Time of all modules within the cut program over the time of the program in one piece.
    pub time: TimeClosure,
    /// Energy by time share.
    pub first_order: EnergyClosure,
    /// Energy by replay.
    pub replay: Option<EnergyClosure>,
}

/// Closure in time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TimeClosure {
    /// Sum over the modules.
    pub sum_s: f64,
    /// The whole in one piece.
    pub whole_s: f64,
    /// Sum over whole.
    pub ratio: f64,
}

/// Closure in energy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnergyClosure {
    /// Sum over the modules.
    pub sum: Energy,
    /// What the whole used and no module accounts for; negative when the modules account for more.
    pub unattributed: Energy,
    /// Sum over whole.
    pub ratio: Option<f64>,
}

/// A stretch of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineSpan {
    /// Index of the module in the model.
    pub module: u32,
    /// Since the begin of the run.
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
}

/// Power at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerSample {
    /// Since the begin of the phase's first window.
    pub time_s: f64,
    /// Watts.
    pub power_w: f64,
}

/// One window, in the order in which they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRow {
    /// `idle`, `whole`, `observed` or `replay`.
    pub target: String,
    /// Index of the replayed module.
    pub module: Option<u32>,
    /// Round of trials.
    pub round: usize,
    /// Begin, in seconds since 1970 (UTC).
    pub start_unix_s: f64,
    /// Begin, since the begin of the phase's first window.
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
    /// How often the target was run.
    pub iterations: usize,
    /// Seconds that the device took for all iterations.
    pub run_s: f64,
    /// Processor time of this process.
    pub cpu_time_s: Option<f64>,
    /// Of an `observed` window: mean time of each module per iteration, in the order of the modules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub module_times_s: Vec<f64>,
    /// Energy by the primary sensors, `null` when unresolved.
    pub energy_j: Option<f64>,
}

impl Profile {
    /// A profile without models.
    pub fn new(meter: &EnergyMeter, metered: MeteredDevice, protocol: Protocol) -> Self {
        let primary = meter.primary(metered);
        let sensors = meter.sensors().iter().enumerate();
        Profile {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            generator: concat!("joulewise ", env!("CARGO_PKG_VERSION")).to_owned(),
            created_unix_s: clock::to_unix_s(clock::now_s()),
            is_complete: false,
            environment: Environment::read(),
            sensors: sensors.map(|(index, info)| SensorRow::of(info, primary.contains(&index))).collect(),
            protocol,
            models: Vec::new(),
            process: ProcessUsage::default(),
        }
    }

    /// Adds a model; phases go to the last one added.
    pub fn add_model(&mut self, model: ModelSummary, device: &str) {
        self.models.push(ModelProfile { model, device: device.to_owned(), phases: Vec::new() });
    }

    /// Adds a phase to the last model, or replaces its unfinished one of the same name and shape, and takes down what
    /// the process used. Without a model there is nothing to add it to.
    pub fn put_phase(&mut self, phase: PhaseProfile) {
        let is_same = |other: &PhaseProfile| {
            (&other.name, other.batch, other.tokens, other.kv_length)
                == (&phase.name, phase.batch, phase.tokens, phase.kv_length)
        };
        if let Some(model) = self.models.last_mut() {
            match model.phases.iter().position(is_same) {
                Some(index) => model.phases[index] = phase,
                None => model.phases.push(phase),
            }
        }
        self.process = ProcessUsage {
            duration_s: clock::to_unix_s(clock::now_s()) - self.created_unix_s,
            cpu_time_s: process::cpu_time_s(),
            peak_memory_bytes: process::peak_memory_bytes(),
        };
    }

    /// All phases with their models.
    pub fn phases(&self) -> impl Iterator<Item = (&ModelProfile, &PhaseProfile)> {
        self.models.iter().flat_map(|model| model.phases.iter().map(move |phase| (model, phase)))
    }

    /// Writes `profile.json`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_json(&self, writer: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *writer, self)?;
        writer.write_all(b"\n")
    }

    /// Reads a `profile.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is no profile, or is of a later version.
    pub fn read_json(path: &Path) -> Result<Profile> {
        let bytes = std::fs::read(path).map_err(ProfilerError::io(path))?;
        let malformed = |line: usize, expected: String, got: String| ProfilerError::Malformed {
            path: path.to_owned(),
            line: line as u64,
            expected,
            got,
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(error.line(), "JSON".to_owned(), error.to_string()))?;
        let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
        let schema = value.get("schema").and_then(serde_json::Value::as_str);
        if schema != Some(SCHEMA) || version != Some(u64::from(SCHEMA_VERSION)) {
            let got = format!("schema {schema:?}, version {version:?}");
            return Err(malformed(1, format!("schema {SCHEMA}, version {SCHEMA_VERSION}"), got));
        }
        serde_json::from_value(value)
            .map_err(|error| malformed(1, "a profile of version 1".to_owned(), error.to_string()))
    }
}
