//! `profile.json`: the wire format of a profile, version 1.
//!
//! Everything is in SI units, named in the field. A figure of energy is an [`Energy`](crate::energy::Energy) object wherever it stands:
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
use crate::energy::Provenance;
use crate::environment::Environment;
use crate::error::{ProfilerError, Result};
use crate::experiment::Protocol;
use crate::meter::{EnergyMeter, MeteredDevice};
use crate::process;
pub use crate::report::phase::*;
use crate::sensor::examination::Examination;
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
    /// What the last self-test of these sensors found, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examination: Option<Examination>,
    /// How it was measured.
    pub protocol: Protocol,
    /// Power by the primary sensors before any model was loaded, or any context on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unloaded_power_w: Option<f64>,
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
    /// Format of the key-value cache, of models that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_format: Option<String>,
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
            examination: None,
            protocol,
            unloaded_power_w: None,
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
        let last = self.models.len().saturating_sub(1);
        self.put_phase_of(last, phase);
    }

    /// The same for a model by its index.
    pub fn put_phase_of(&mut self, model: usize, phase: PhaseProfile) {
        let is_same = |other: &PhaseProfile| {
            (&other.name, other.batch, other.tokens, other.kv_length)
                == (&phase.name, phase.batch, phase.tokens, phase.kv_length)
        };
        if let Some(model) = self.models.get_mut(model) {
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
            let version = version.map_or("none".to_owned(), |version| version.to_string());
            let got = format!("schema {}, version {version}", schema.unwrap_or("none"));
            return Err(malformed(1, format!("schema {SCHEMA}, version {SCHEMA_VERSION}"), got));
        }
        serde_json::from_value(value)
            .map_err(|error| malformed(1, "a profile of version 1".to_owned(), error.to_string()))
    }
}
