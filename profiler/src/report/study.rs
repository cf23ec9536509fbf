//! A study for people and spreadsheets: a table, `study.csv`, and `study.html`, which fetches nothing.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::report::table::Table;
use crate::report::{quantity, replace};
use crate::study::{Row, Study};

const TEMPLATE: &str = include_str!("../../templates/study.html");

/// Names of the files that [`write()`] leaves in a directory.
pub const FILES: [&str; 3] = ["study.json", "study.csv", "study.html"];

/// Writes all files of a study into a directory that is there; returns their paths. Each appears under its name only
/// when it is whole.
///
/// # Errors
/// When a file cannot be written.
pub fn write(directory: &Path, study: &Study) -> Result<Vec<PathBuf>> {
    let failed = |error: &dyn std::fmt::Display| ProfilerError::Report(error.to_string());
    let json = serde_json::to_vec_pretty(study).map_err(|error| failed(&error))?;
    let contents = [json, csv(study)?.into_bytes(), html(study)?.into_bytes()];
    FILES.iter().zip(contents).map(|(name, content)| replace(directory, name, &content)).collect()
}

/// One row per model and strategy.
pub fn table(study: &Study) -> Table {
    let header = [
        "model",
        "strategy",
        "energy",
        "time",
        "accuracy",
        "same as first",
        "weights",
        "CPU share",
        "peak memory",
    ];
    let rows = study.rows.iter().map(|row| {
        let cells = Cells::of(row);
        vec![
            row.model.clone(),
            row.strategy.clone(),
            cells.labelled_energy(row),
            cells.time,
            cells.accuracy,
            cells.agreement,
            cells.weights,
            cells.cpu_share,
            cells.peak_memory,
        ]
    });
    Table { header: header.map(str::to_owned).to_vec(), rows: rows.collect() }
}

/// What the columns mean, and what to keep in mind.
pub fn notes(study: &Study) -> Vec<String> {
    let mut notes = vec![format!(
        "energy and time are those of one sentence, one at a time ({}, {} sentences); ± is the 95 % interval over \
         trials; each trial is a process of its own, in shuffled order",
        study.data, study.n_sentences
    )];
    let has = |is: &dyn Fn(&Row) -> bool| study.rows.iter().any(is);
    if has(&|row| row.sentence_energy.provenance == Provenance::Estimated) {
        notes.push(
            "energies are estimated from processor time (± 50 %), since no sensor measures here: compare times and \
             bytes"
                .to_owned(),
        );
    }
    if has(&|row| row.sentence_energy.energy_j.is_none()) {
        notes.push("no sensor resolved some energies: compare times and bytes".to_owned());
    }
    if has(&|row| row.accuracy.is_none()) {
        notes.push("models with random weights have costs, but no accuracy".to_owned());
    }
    let readouts: std::collections::BTreeSet<&str> =
        study.rows.iter().map(|row| row.readout.name()).collect();
    if !readouts.is_empty() {
        let readouts = readouts.into_iter().collect::<Vec<_>>().join("; ");
        notes.push(format!("answers are read out by: {readouts}"));
    }
    notes
}

/// A line of the CSV; the field names are the columns.
#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    strategy: &'a str,
    device: &'a str,
    trials: usize,
    sentence_energy_j: Option<f64>,
    sentence_energy_ci95_j: Option<f64>,
    sentence_energy_systematic_j: Option<f64>,
    provenance: &'static str,
    sensor: &'a str,
    sentence_time_s: f64,
    sentence_time_ci95_s: Option<f64>,
    accuracy: Option<f64>,
    accuracy_low: Option<f64>,
    accuracy_high: Option<f64>,
    readout: &'static str,
    agreement_with_first: Option<f64>,
    weight_bytes: u64,
    cpu_share: Option<f64>,
    peak_memory_bytes: Option<u64>,
}

/// The rows for spreadsheets, in SI units; what is not known is an empty cell.
///
/// # Errors
/// [`ProfilerError::Report`].
pub fn csv(study: &Study) -> Result<String> {
    let failed = |error: &dyn std::fmt::Display| ProfilerError::Report(error.to_string());
    let mut csv = csv::Writer::from_writer(Vec::new());
    for row in &study.rows {
        let energy = &row.sentence_energy;
        csv.serialize(Line {
            model: &row.model,
            strategy: &row.strategy,
            device: &row.device,
            trials: row.n_trials,
            sentence_energy_j: energy.energy_j,
            sentence_energy_ci95_j: energy.energy_j.and(energy.ci95_j),
            sentence_energy_systematic_j: energy.energy_j.map(|_| energy.systematic_j),
            provenance: energy.provenance.name(),
            sensor: &energy.sensor,
            sentence_time_s: row.sentence_time_s,
            sentence_time_ci95_s: row.sentence_time_ci95_s,
            accuracy: row.accuracy,
            accuracy_low: row.accuracy_interval.map(|interval| interval.low),
            accuracy_high: row.accuracy_interval.map(|interval| interval.high),
            readout: row.readout.name(),
            agreement_with_first: row.agreement,
            weight_bytes: row.weight_bytes,
            cpu_share: row.cpu_share,
            peak_memory_bytes: row.peak_memory_bytes,
        })
        .map_err(|error| failed(&error))?;
    }
    let bytes = csv.into_inner().map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map_err(|error| failed(&error))
}

/// The figures of a row as text.
struct Cells {
    energy: String,
    time: String,
    accuracy: String,
    agreement: String,
    weights: String,
    cpu_share: String,
    peak_memory: String,
}

impl Cells {
    fn of(row: &Row) -> Self {
        let none = || "–".to_owned();
        let share = |share: Option<f64>| share.map_or_else(none, quantity::percent);
        Cells {
            energy: quantity::energy(&row.sentence_energy),
            time: quantity::si_with_ci(row.sentence_time_s, row.sentence_time_ci95_s, "s"),
            accuracy: share(row.accuracy),
            agreement: share(row.agreement),
            weights: quantity::bytes(row.weight_bytes as f64),
            cpu_share: share(row.cpu_share),
            peak_memory: row.peak_memory_bytes.map_or_else(none, |bytes| quantity::bytes(bytes as f64)),
        }
    }

    fn labelled_energy(&self, row: &Row) -> String {
        match row.sentence_energy.energy_j {
            Some(_) => format!("{} [{}]", self.energy, row.sentence_energy.provenance),
            None => self.energy.clone(),
        }
    }
}

/// Renders a study as a page of its own.
///
/// # Errors
/// [`ProfilerError::Report`].
pub fn html(study: &Study) -> Result<String> {
    let failed = |error: minijinja::Error| ProfilerError::Report(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("study.html", TEMPLATE).map_err(failed)?;
    let page = Page::of(study);
    environment.get_template("study.html").and_then(|template| template.render(Serde(page))).map_err(failed)
}

#[derive(Serialize)]
struct Page<'a> {
    is_complete: bool,
    machine: String,
    generator: &'a str,
    notes: Vec<String>,
    failures: &'a [crate::study::Failure],
    models: Vec<ModelView<'a>>,
}

#[derive(Serialize)]
struct ModelView<'a> {
    name: &'a str,
    device: &'a str,
    readout: &'static str,
    rows: Vec<RowView<'a>>,
}

#[derive(Serialize)]
struct RowView<'a> {
    strategy: &'a str,
    provenance: &'static str,
    figures: Vec<Figure>,
}

/// A figure and its bar in per cent of the largest one of the study; no bar where there is no number.
#[derive(Serialize)]
struct Figure {
    text: String,
    bar: Option<f64>,
    /// Which colour: less is better, more is better, or neither.
    kind: &'static str,
}

impl<'a> Page<'a> {
    fn of(study: &'a Study) -> Self {
        let environment = &study.environment;
        let machine = [
            environment.cpu_model.clone(),
            Some(format!("{} cores", environment.n_cores)),
            environment.memory_bytes.map(|bytes| quantity::bytes(bytes as f64)),
        ];
        let most =
            |value: &dyn Fn(&Row) -> Option<f64>| study.rows.iter().filter_map(value).fold(0.0, f64::max);
        let energy = |row: &Row| row.sentence_energy.energy_j;
        let time = |row: &Row| Some(row.sentence_time_s);
        let weights = |row: &Row| Some(row.weight_bytes as f64);
        let memory = |row: &Row| row.peak_memory_bytes.map(|bytes| bytes as f64);
        let (most_energy, most_time) = (most(&energy), most(&time));
        let (most_weights, most_memory) = (most(&weights), most(&memory));
        let mut models: Vec<ModelView<'a>> = Vec::new();
        for row in &study.rows {
            if models.last().is_none_or(|model| model.name != row.model) {
                let readout = if row.accuracy.is_some() { row.readout.name() } else { "random weights" };
                models.push(ModelView { name: &row.model, device: &row.device, readout, rows: Vec::new() });
            }
            let cells = Cells::of(row);
            let figure = |text: String, value: Option<f64>, most: f64, kind| Figure {
                text,
                bar: value.filter(|_| most > 0.0).map(|value| 100.0 * value / most),
                kind,
            };
            let figures = vec![
                figure(cells.energy, energy(row), most_energy, "energy"),
                figure(cells.time, time(row), most_time, "cost"),
                figure(cells.accuracy, row.accuracy, 1.0, "quality"),
                figure(cells.agreement, row.agreement, 1.0, "quality"),
                figure(cells.weights, weights(row), most_weights, "cost"),
                figure(cells.cpu_share, row.cpu_share, 1.0, "neutral"),
                figure(cells.peak_memory, memory(row), most_memory, "cost"),
            ];
            if let Some(model) = models.last_mut() {
                let provenance = row.sentence_energy.provenance.name();
                model.rows.push(RowView { strategy: &row.strategy, provenance, figures });
            }
        }
        Page {
            is_complete: study.is_complete,
            machine: machine.into_iter().flatten().collect::<Vec<_>>().join(" · "),
            generator: &study.generator,
            notes: notes(study),
            failures: &study.failures,
            models,
        }
    }
}
