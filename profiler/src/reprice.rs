//! A profile measured again with the log of an external meter that was exported afterwards.
//!
//! A profile keeps every window with its calendar time. So a recording that was made meanwhile (a Joulescope's, a wall
//! meter's) can take the place of the sensors after the fact: the windows and times stay, the energies are new.

use joulewise_engine::{Cost, ModuleId, ModuleKind, Phase};

use crate::attribution::{Basis, attribute};
use crate::classes::Class;
use crate::clock;
use crate::energy::EnergyReading;
use crate::error::{ProfilerError, Result};
use crate::experiment::{Protocol, Record, Target, Trial};
use crate::meter::reading;
use crate::report::json::{ClassRow, ModuleRow, PhaseProfile, PowerSample, Profile, SensorRow, WindowRow};
use crate::sensor::Sensor;
use crate::sensor::power_log::PowerLog;
use crate::trace::Trace;
use crate::workload::{Part, WorkloadShape};

/// Replaces all energies of a profile by those of a finished log. Windows that the log does not cover become
/// unresolved.
///
/// # Errors
/// Those of reading the log; [`ProfilerError::Protocol`] when the profile names what this version does not know.
pub fn reprice(profile: &mut Profile, log: &mut PowerLog) -> Result<()> {
    let trace = log.trace()?;
    let info = log.info();
    let between = |start_s: f64, end_s: f64| vec![reading(&trace, info, start_s, end_s)];
    let protocol = profile.protocol.clone();
    for phase in profile.models.iter_mut().flat_map(|model| &mut model.phases) {
        *phase = repriced(phase, &protocol, &trace, &between)?;
    }
    profile.sensors.iter_mut().for_each(|sensor| sensor.is_primary = false);
    profile.sensors.push(SensorRow::of(info, true));
    Ok(())
}

fn repriced(
    old: &PhaseProfile,
    protocol: &Protocol,
    trace: &Trace,
    between: &dyn Fn(f64, f64) -> Vec<EnergyReading>,
) -> Result<PhaseProfile> {
    let shape = shape(old)?;
    let parts = old.modules.iter().map(part).collect::<Result<Vec<_>>>()?;
    let record = record(old)?;
    let (parts, record_of) = (&parts, &record);
    let mut new = attribute(&Basis {
        shape,
        parts,
        record: record_of,
        energy_between: between,
        primary: &[0],
        protocol,
    });
    new.timeline.clone_from(&old.timeline);
    new.power_samples = power_samples(&record, trace, old.power_samples.len());
    Ok(new)
}

fn shape(phase: &PhaseProfile) -> Result<WorkloadShape> {
    let phases = [Phase::Forward, Phase::Prefill, Phase::Decode];
    let kind = phases.into_iter().find(|kind| kind.name() == phase.name);
    let kind = kind.ok_or_else(|| unknown("phase", &phase.name))?;
    Ok(WorkloadShape { phase: kind, batch: phase.batch, tokens: phase.tokens, kv_length: phase.kv_length })
}

/// The trials of a phase as a profile keeps them, without what the sensors said.
fn record(phase: &PhaseProfile) -> Result<Record> {
    let classes = phase.classes.iter();
    let class = |row: &ClassRow| Class {
        name: row.name.clone(),
        modules: row.modules.iter().copied().map(ModuleId).collect(),
        weight_bytes: row.weight_bytes,
        cold_bytes: 0.0,
        companion: row.companion,
    };
    Ok(Record {
        trials: phase.windows.iter().map(trial).collect::<Result<Vec<_>>>()?,
        timeline: Vec::new(),
        sweeps: classes.clone().map(|row| row.sweeps).collect(),
        classes: classes.map(class).collect(),
        replayed: phase.modules.iter().filter(|row| row.is_replayed).map(|row| ModuleId(row.id)).collect(),
        warm_up_iterations: phase.warm_up_iterations,
        notes: Vec::new(),
        is_complete: phase.is_complete,
    })
}

fn unknown(what: &str, name: &str) -> ProfilerError {
    ProfilerError::Protocol(format!("the profile has a {what} `{name}` that this version does not know"))
}

fn part(row: &ModuleRow) -> Result<Part> {
    let kind = ModuleKind::ALL.iter().find(|kind| kind.name() == row.kind);
    Ok(Part {
        module: ModuleId(row.id),
        path: row.path.clone(),
        kind: *kind.ok_or_else(|| unknown("kind of module", &row.kind))?,
        block: row.block,
        format: row.format.clone(),
        weight_bytes: row.weight_bytes,
        cost: Cost {
            flops: row.flops,
            bytes_read: row.bytes_read,
            bytes_written: row.bytes_written,
            weight_bytes: row.weight_bytes as f64,
        },
    })
}

fn trial(window: &WindowRow) -> Result<Trial> {
    let target = match (window.target.as_str(), window.module) {
        ("idle", None) => Target::Idle,
        ("whole", None) => Target::Whole,
        ("observed", None) => Target::Observed,
        ("replay", Some(module)) => Target::Replay(ModuleId(module)),
        ("repeated", None) => Target::Repeated,
        ("mixture", None) => Target::Mixture,
        ("rotation", None) => {
            Target::Rotation(window.extra.first().ok_or_else(|| unknown("window", "rotation"))?.class)
        }
        _ => return Err(unknown("window", &window.target)),
    };
    Ok(Trial {
        target,
        round: window.round,
        start_s: clock::from_unix_s(window.start_unix_s),
        duration_s: window.duration_s,
        run_s: window.run_s,
        iterations: window.iterations,
        cpu_time_s: window.cpu_time_s,
        part_s: window.module_times_s.clone(),
        extra: window.extra.clone(),
        seen: None,
        flags: window.flags.clone(),
    })
}

/// At most `most` samples of the log over the time of the trials.
fn power_samples(record: &Record, trace: &Trace, most: usize) -> Vec<PowerSample> {
    let (Some(first), Some(last)) = (record.trials.first(), record.trials.last()) else { return Vec::new() };
    let during = first.start_s..=last.start_s + last.duration_s;
    let points: Vec<_> = trace.points().iter().filter(|point| during.contains(&point.time_s)).collect();
    let stride = points.len().div_ceil(most.max(100));
    let thinned = points.into_iter().step_by(stride.max(1));
    thinned.map(|point| PowerSample { time_s: point.time_s - first.start_s, power_w: point.value }).collect()
}
