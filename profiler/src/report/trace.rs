//! `trace.json`: one run of each phase, module by module, and the power over all trials, for `ui.perfetto.dev`.
//!
//! The format is that of Chrome's trace events: complete slices (`"ph": "X"`), counters (`"C"`) and names (`"M"`), times
//! in microseconds. Each phase is a process with three tracks: the modules of one run, the layers around them, and the
//! windows of the trials with the power that the sensor told. The run is drawn at the time 0 of its phase, beside the
//! windows and not within one of them.

use std::io::Write;

use serde_json::{Value, json};

use crate::error::{ProfilerError, Result};
use crate::report::json::{ModuleRow, PhaseProfile, Profile};

const MODULES_TRACK: u32 = 1;
const LAYERS_TRACK: u32 = 2;
const WINDOWS_TRACK: u32 = 3;

/// Writes the trace of all phases of all models.
///
/// # Errors
/// [`ProfilerError::Report`] when writing fails.
pub fn write(profile: &Profile, writer: &mut dyn Write) -> Result<()> {
    let mut events = Vec::new();
    for (process, (model, phase)) in (1..).zip(profile.phases()) {
        add_phase(&mut events, process, &model.model.name, phase);
    }
    let document = json!({ "displayTimeUnit": "ms", "traceEvents": events });
    serde_json::to_writer(writer, &document).map_err(|error| ProfilerError::Report(error.to_string()))
}

fn add_phase(events: &mut Vec<Value>, process: u32, model: &str, phase: &PhaseProfile) {
    let name = |what: &str, track: u32, name: String| json!({ "ph": "M", "name": what, "pid": process, "tid": track, "args": { "name": name } });
    events.push(name("process_name", 0, format!("{model}: {}", phase.name)));
    events.push(name("thread_name", MODULES_TRACK, "modules, one run".to_owned()));
    events.push(name("thread_name", LAYERS_TRACK, "layers, one run".to_owned()));
    events.push(name("thread_name", WINDOWS_TRACK, "windows of the trials".to_owned()));
    let slice = |track: u32, name: &str, category: &str, start_s: f64, duration_s: f64, args: Value| {
        json!({
            "ph": "X", "name": name, "cat": category, "pid": process, "tid": track,
            "ts": start_s * 1e6, "dur": duration_s * 1e6, "args": args,
        })
    };
    let row = |module: u32| phase.modules.iter().find(|row| row.id == module);
    for span in &phase.timeline {
        if let Some(row) = row(span.module) {
            let args = module_args(row, phase);
            events.push(slice(MODULES_TRACK, &row.path, &row.kind, span.start_s, span.duration_s, args));
        }
    }
    for (layer, start_s, end_s) in layers(phase) {
        events.push(slice(LAYERS_TRACK, &layer, "layer", start_s, end_s - start_s, json!({})));
    }
    for window in &phase.windows {
        let replayed = window.module.and_then(row).map(|row| row.path.as_str());
        let name = replayed.map_or(window.target.clone(), |path| format!("{} {path}", window.target));
        let args = json!({
            "round": window.round, "iterations": window.iterations, "energy_j": window.energy_j,
            "provenance": phase.whole.energy.provenance,
        });
        events.push(slice(WINDOWS_TRACK, &name, &window.target, window.start_s, window.duration_s, args));
    }
    for sample in &phase.power_samples {
        events.push(json!({
            "ph": "C", "name": format!("power W [{}]", phase.whole.energy.provenance), "pid": process,
            "ts": sample.time_s * 1e6, "args": { "W": sample.power_w },
        }));
    }
}

fn module_args(row: &ModuleRow, phase: &PhaseProfile) -> Value {
    let energy = row.energy(phase.attribution);
    json!({
        "energy_j": energy.energy_j, "ci95_j": energy.ci95_j, "systematic_j": energy.systematic_j,
        "provenance": energy.provenance, "attribution": phase.attribution, "format": row.format,
        "flops": row.flops, "bytes": row.bytes_read + row.bytes_written,
    })
}

/// Stretches of the timeline that belong to one layer: name, begin, end.
fn layers(phase: &PhaseProfile) -> Vec<(String, f64, f64)> {
    let mut layers: Vec<(String, f64, f64)> = Vec::new();
    for span in &phase.timeline {
        let block = phase.modules.iter().find(|row| row.id == span.module).and_then(|row| row.block);
        let Some(block) = block else { continue };
        let (name, end_s) = (format!("layer {block}"), span.start_s + span.duration_s);
        match layers.last_mut() {
            Some(last) if last.0 == name => last.2 = end_s,
            _ => layers.push((name, span.start_s, end_s)),
        }
    }
    layers
}
