//! `layers.csv`: one row per phase and module, for spreadsheets and data frames.
//!
//! Units are SI and in the column names. An energy that no sensor resolved is an empty cell, never 0.
//! After the modules of a phase come two rows whose `kind` is `closure`: `(unattributed)` and `(whole)`, the latter
//! measured in windows of its own.

use std::io::Write;

use serde::Serialize;

use crate::energy::{Energy, Provenance};
use crate::error::{ProfilerError, Result};
use crate::report::json::{ModelProfile, PhaseProfile, Profile, Timing};
use crate::report::table::energy_closure;

/// A line of the file; the field names are the columns.
#[derive(Serialize)]
struct Row<'a> {
    model: &'a str,
    phase: &'a str,
    batch: usize,
    tokens: usize,
    kv_length: usize,
    module: &'a str,
    kind: &'a str,
    block: Option<u32>,
    format: Option<&'a str>,
    weight_bytes: Option<u64>,
    flops: Option<f64>,
    bytes_read: Option<f64>,
    bytes_written: Option<f64>,
    time_s: f64,
    time_ci95_s: Option<f64>,
    time_share: Option<f64>,
    energy_j: Option<f64>,
    energy_ci95_j: Option<f64>,
    energy_systematic_j: Option<f64>,
    trials: usize,
    provenance: Provenance,
    attribution: &'a str,
    sensor: &'a str,
    scope: &'a str,
    first_order_energy_j: Option<f64>,
    replay_energy_j: Option<f64>,
    replay_time_s: Option<f64>,
    rotation_energy_j: Option<f64>,
    regression_energy_j: Option<f64>,
    regression_ci95_j: Option<f64>,
    regression_time_s: Option<f64>,
}

/// Writes the modules of all phases of all models.
///
/// # Errors
/// [`ProfilerError::Report`] when writing fails.
pub fn write(profile: &Profile, writer: &mut dyn Write) -> Result<()> {
    let failed = |error: csv::Error| ProfilerError::Report(error.to_string());
    let mut csv = csv::Writer::from_writer(writer);
    for (model, phase) in profile.phases() {
        for row in rows(model, phase) {
            csv.serialize(row).map_err(failed)?;
        }
    }
    csv.flush().map_err(|error| ProfilerError::Report(error.to_string()))
}

/// A line of `windows.csv`.
#[derive(Serialize)]
struct WindowLine<'a> {
    model: &'a str,
    phase: &'a str,
    target: &'a str,
    module: Option<&'a str>,
    classes: String,
    round: usize,
    start_unix_s: f64,
    start_s: f64,
    duration_s: f64,
    iterations: usize,
    run_s: f64,
    cpu_time_s: Option<f64>,
    energy_j: Option<f64>,
    sampling_ci95_j: Option<f64>,
    provenance: Provenance,
    temperature_c: Option<f64>,
    clock_hz: Option<f64>,
    flags: String,
}

/// Writes `windows.csv`: every window that was measured, in order, raw.
///
/// # Errors
/// [`ProfilerError::Report`] when writing fails.
pub fn write_windows(profile: &Profile, writer: &mut dyn Write) -> Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    for (model, phase) in profile.phases() {
        let path = |id: u32| phase.modules.iter().find(|row| row.id == id).map(|row| row.path.as_str());
        let class = |index: usize| phase.classes.get(index).map_or("?", |class| class.name.as_str());
        for window in &phase.windows {
            let extra = window.extra.iter().map(|extra| format!("{} x{}", class(extra.class), extra.sweeps));
            let line = WindowLine {
                model: &model.model.name,
                phase: &phase.name,
                target: &window.target,
                module: window.module.and_then(path),
                classes: extra.collect::<Vec<_>>().join(" + "),
                round: window.round,
                start_unix_s: window.start_unix_s,
                start_s: window.start_s,
                duration_s: window.duration_s,
                iterations: window.iterations,
                run_s: window.run_s,
                cpu_time_s: window.cpu_time_s,
                energy_j: window.energy_j,
                sampling_ci95_j: window.sampling_j,
                provenance: window.provenance,
                temperature_c: window.temperature_c,
                clock_hz: window.clock_hz,
                flags: window.flags.join("; "),
            };
            csv.serialize(line).map_err(|error| ProfilerError::Report(error.to_string()))?;
        }
    }
    csv.flush().map_err(|error| ProfilerError::Report(error.to_string()))
}

/// A line of `samples.csv`.
#[derive(Serialize)]
struct SampleLine<'a> {
    model: &'a str,
    phase: &'a str,
    time_s: f64,
    power_w: f64,
}

/// Writes `samples.csv`: power over time by the primary sensor, as the report draws it.
///
/// # Errors
/// [`ProfilerError::Report`] when writing fails.
pub fn write_samples(profile: &Profile, writer: &mut dyn Write) -> Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    for (model, phase) in profile.phases() {
        for sample in &phase.power_samples {
            let line = SampleLine {
                model: &model.model.name,
                phase: &phase.name,
                time_s: sample.time_s,
                power_w: sample.power_w,
            };
            csv.serialize(line).map_err(|error| ProfilerError::Report(error.to_string()))?;
        }
    }
    csv.flush().map_err(|error| ProfilerError::Report(error.to_string()))
}

fn rows<'a>(model: &'a ModelProfile, phase: &'a PhaseProfile) -> Vec<Row<'a>> {
    let attribution = phase.attribution;
    let closure = energy_closure(phase);
    let base = |module: &'a str, kind: &'a str, time: Timing, energy: &'a Energy| Row {
        model: &model.model.name,
        phase: &phase.name,
        batch: phase.batch,
        tokens: phase.tokens,
        kv_length: phase.kv_length,
        module,
        kind,
        block: None,
        format: None,
        weight_bytes: None,
        flops: None,
        bytes_read: None,
        bytes_written: None,
        time_s: time.duration_s,
        time_ci95_s: time.ci95_s,
        time_share: None,
        energy_j: energy.energy_j,
        energy_ci95_j: energy.ci95_j,
        energy_systematic_j: energy.energy_j.map(|_| energy.systematic_j),
        trials: energy.n,
        provenance: energy.provenance,
        attribution: attribution.name(),
        sensor: &energy.sensor,
        scope: &energy.scope,
        first_order_energy_j: None,
        replay_energy_j: None,
        replay_time_s: None,
        rotation_energy_j: None,
        regression_energy_j: None,
        regression_ci95_j: None,
        regression_time_s: None,
    };
    let mut rows: Vec<Row<'a>> = phase
        .modules
        .iter()
        .map(|row| Row {
            block: row.block,
            format: row.format.as_deref(),
            weight_bytes: Some(row.weight_bytes),
            flops: Some(row.flops),
            bytes_read: Some(row.bytes_read),
            bytes_written: Some(row.bytes_written),
            time_share: Some(row.time_share),
            first_order_energy_j: row.first_order.energy_j,
            replay_energy_j: row.replay.as_ref().and_then(|replay| replay.energy_j),
            replay_time_s: row.replay_time.map(|time| time.duration_s),
            rotation_energy_j: row.rotation.as_ref().and_then(|energy| energy.energy_j),
            regression_energy_j: row.regression.as_ref().and_then(|energy| energy.energy_j),
            regression_ci95_j: row.regression.as_ref().and_then(|energy| energy.ci95_j),
            regression_time_s: row.regression_time.map(|time| time.duration_s),
            ..base(&row.path, &row.kind, row.time, row.energy(attribution))
        })
        .collect();
    let time = &phase.closure.time;
    let rest = Timing { duration_s: time.whole_s - time.sum_s, ci95_s: None, n: phase.whole.time.n };
    rows.push(base("(unattributed)", "closure", rest, &closure.unattributed));
    rows.push(base("(whole)", "closure", phase.whole.time, &phase.whole.energy));
    rows
}
