//! A profile measured again with the log of an external meter that was exported afterwards.
//!
//! A profile keeps every window with its calendar time. So a recording that was made meanwhile (a Joulescope's, a wall
//! meter's) can take the place of the sensors after the fact: the windows and times stay, the energies are new.

use joulewise_engine::{Cost, ModuleId, ModuleKind, Phase};

use crate::attribution::attribute;
use crate::clock;
use crate::energy::EnergyReading;
use crate::error::{ProfilerError, Result};
use crate::experiment::{Record, Target, Trial};
use crate::meter::reading;
use crate::report::json::{ModuleRow, PhaseProfile, PowerSample, Profile, SensorRow, WindowRow};
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
    for phase in profile.models.iter_mut().flat_map(|model| &mut model.phases) {
        *phase = repriced(phase, &trace, &between)?;
    }
    profile.sensors.iter_mut().for_each(|sensor| sensor.is_primary = false);
    profile.sensors.push(SensorRow::of(info, true));
    Ok(())
}

fn repriced(
    old: &PhaseProfile,
    trace: &Trace,
    between: &dyn Fn(f64, f64) -> Vec<EnergyReading>,
) -> Result<PhaseProfile> {
    let phases = [Phase::Forward, Phase::Prefill, Phase::Decode];
    let phase = phases.into_iter().find(|phase| phase.name() == old.name);
    let phase = phase.ok_or_else(|| unknown("phase", &old.name))?;
    let shape = WorkloadShape { phase, batch: old.batch, tokens: old.tokens, kv_length: old.kv_length };
    let parts = old.modules.iter().map(part).collect::<Result<Vec<_>>>()?;
    let record = Record {
        trials: old.windows.iter().map(trial).collect::<Result<Vec<_>>>()?,
        timeline: Vec::new(),
        replayed: old.modules.iter().filter(|row| row.is_replayed).map(|row| ModuleId(row.id)).collect(),
        warm_up_iterations: old.warm_up_iterations,
        is_complete: old.is_complete,
    };
    let mut new = attribute(shape, &parts, &record, between, &[0]);
    new.timeline.clone_from(&old.timeline);
    new.power_samples = power_samples(&record, trace, old.power_samples.len());
    Ok(new)
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
