//! Going on with a profile that was interrupted: its windows are read back as trials that are done.

use joulewise_engine::ModuleId;

use crate::classes::Class;
use crate::clock;
use crate::energy::{Energy, Provenance};
use crate::error::{ProfilerError, Result};
use crate::experiment::{Record, Seen, Target, Trial};
use crate::report::json::{ClassRow, PhaseProfile, SensorRow, WindowRow};

/// The trials of a phase with what the sensors said of them.
///
/// # Errors
/// [`ProfilerError::Protocol`] when the profile names what this version does not know.
pub fn record(phase: &PhaseProfile, sensors: &[SensorRow]) -> Result<Record> {
    let mut record = unseen_record(phase)?;
    for (trial, window) in record.trials.iter_mut().zip(&phase.windows) {
        trial.seen = Some(seen(window, sensors));
    }
    Ok(record)
}

/// The trials of a phase without what the sensors said.
///
/// # Errors
/// As [`record`].
pub(crate) fn unseen_record(phase: &PhaseProfile) -> Result<Record> {
    let classes = phase.classes.iter();
    let class = |row: &ClassRow| Class {
        name: row.name.clone(),
        modules: row.modules.iter().copied().map(ModuleId).collect(),
        unit: row.unit,
        weight_bytes: row.weight_bytes,
        cold_bytes: row.cold_bytes,
        ballast: row.ballast,
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

fn trial(window: &WindowRow) -> Result<Trial> {
    let target = match (window.target.as_str(), window.module) {
        ("idle", None) => Target::Idle,
        ("whole", None) => Target::Whole,
        ("observed", None) => Target::Observed,
        ("replay", Some(module)) => Target::Replay(ModuleId(module)),
        ("repeated", None) => Target::Repeated,
        ("mixture", None) => Target::Mixture,
        ("marker", None) => Target::Marker,
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
        extra: window.extra.clone(),
        cpu_time_s: window.cpu_time_s,
        part_s: window.module_times_s.clone(),
        seen: None,
        flags: window.flags.clone(),
        temperature_c: window.temperature_c,
        clock_hz: window.clock_hz,
    })
}

pub(crate) fn unknown(what: &str, name: &str) -> ProfilerError {
    ProfilerError::Protocol(format!("the profile has a {what} `{name}` that this version does not know"))
}

fn seen(window: &WindowRow, sensors: &[SensorRow]) -> Seen {
    let primary: Vec<&SensorRow> = sensors.iter().filter(|sensor| sensor.is_primary).collect();
    let join = |part: fn(&SensorRow) -> &str| {
        primary.iter().map(|sensor| part(sensor)).collect::<Vec<_>>().join(" + ")
    };
    let systematic = primary.iter().map(|sensor| sensor.systematic_relative).fold(0.0, f64::max);
    let of =
        |sensor: &str, scope: &str, energy_j: Option<f64>, sampling_j, systematic: f64, provenance| Energy {
            energy_j,
            ci95_j: energy_j.and(sampling_j),
            n: usize::from(energy_j.is_some()),
            systematic_j: energy_j.map_or(0.0, |energy_j| systematic * energy_j),
            provenance: if energy_j.is_some() { provenance } else { Provenance::Unresolved },
            ..Energy::unresolved(sensor, scope, None)
        };
    let by_sensor = sensors.iter().zip(&window.by_sensor_j).map(|(sensor, energy_j)| {
        of(&sensor.name, &sensor.scope, *energy_j, None, sensor.systematic_relative, sensor.provenance)
    });
    let (name, scope) = (join(|sensor| &sensor.name), join(|sensor| &sensor.scope));
    Seen {
        energy: of(&name, &scope, window.energy_j, window.sampling_j, systematic, window.provenance),
        by_sensor: by_sensor.collect(),
        reason: window.reason.clone(),
        is_lost: window.is_lost,
    }
}
