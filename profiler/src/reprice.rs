//! A profile measured again with the log of an external meter that was exported afterwards.
//!
//! A profile keeps every window with its calendar time. So a recording that was made meanwhile (a Joulescope's, a wall
//! meter's) can take the place of the sensors after the fact: the windows and times stay, the energies are new.

use joulewise_engine::{Cost, ModuleId, ModuleKind, Phase};

use crate::attribution::{Basis, attribute};
use crate::clock;
use crate::energy::EnergyReading;
use crate::error::{ProfilerError, Result};
use crate::experiment::{Protocol, Record};
use crate::meter::reading;
use crate::report::json::{ModuleRow, PhaseProfile, PowerSample, Profile, SensorRow};
use crate::resume::{unknown, unseen_record};
use crate::sensor::Sensor;
use crate::sensor::power_log::PowerLog;
use crate::statistics::pearson;
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

/// How a log's clock stands to that of the profiled machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Seconds to add to the log's times.
    pub offset_s: f64,
    /// Correlation between the log's power and the load at this offset.
    pub correlation: f64,
}

/// Below this, power and load have nothing to do with each other.
const LEAST_CORRELATION: f64 = 0.5;

/// Finds a log's offset from the load: at the right one, its power is high in the windows of the program and low between
/// them. Tried to a millisecond over the whole length of the log. A profile with a marker (a square wave of load, see
/// [`Protocol::marker`](crate::protocol::Protocol)) is aligned by that alone; in others the program also runs a little
/// outside of its windows, which may move the offset by some ten milliseconds.
///
/// # Errors
/// Those of reading the log; [`ProfilerError::Protocol`] when no offset makes power follow the load.
pub fn align(profile: &Profile, log: &mut PowerLog) -> Result<Alignment> {
    let trace = log.trace()?;
    let windows = || profile.phases().flat_map(|(_, phase)| &phase.windows);
    let is_marked = windows().any(|window| window.target == "marker");
    let mut windows: Vec<(f64, f64)> = windows()
        .filter(|window| if is_marked { window.target == "marker" } else { window.target != "idle" })
        .map(|window| (clock::from_unix_s(window.start_unix_s), window.duration_s))
        .collect();
    if is_marked {
        // Those of the first phase: what lies between two waves is no rest.
        windows.truncate(MARKER_WINDOWS);
    }
    let nothing =
        || ProfilerError::Protocol("the log's power does not follow the load of the profile".to_owned());
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Err(nothing()) };
    let (begin_s, end_s) = (first.0 - MARGIN_S, last.0 + last.1 + MARGIN_S);
    let points = trace.points();
    let (Some(log_first), Some(log_last)) = (points.first(), points.last()) else { return Err(nothing()) };
    let correlation = |offset_s: f64, step_s: f64| -> f64 {
        let n = ((end_s - begin_s) / step_s) as usize;
        let (mut power, mut load) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut window = 0;
        for index in 0..n {
            let time_s = begin_s + index as f64 * step_s;
            while window + 1 < windows.len() && windows[window].0 + windows[window].1 < time_s {
                window += 1;
            }
            let (start_s, duration_s) = windows[window];
            load.push(f64::from(u8::from((start_s..start_s + duration_s).contains(&time_s))));
            power.push(trace.power_w(time_s - offset_s));
        }
        pearson(&power, &load).unwrap_or(-1.0)
    };
    let best = |offsets: &mut dyn Iterator<Item = f64>, step_s: f64| {
        offsets.map(|offset_s| (offset_s, correlation(offset_s, step_s))).max_by(|a, b| a.1.total_cmp(&b.1))
    };
    // Offsets at which log and profile overlap by at least half of the profile.
    let half_s = (end_s - begin_s) / 2.0;
    let (least_s, most_s) = (end_s - half_s - log_last.time_s, begin_s + half_s - log_first.time_s);
    let coarse_s = ((end_s - begin_s) / 2000.0).clamp(0.01, 0.05);
    let n = ((most_s - least_s).max(0.0) / coarse_s) as usize;
    let (mut offset_s, mut found) =
        best(&mut (0..=n).map(|i| least_s + i as f64 * coarse_s), coarse_s).ok_or_else(nothing)?;
    for step_s in [coarse_s / 5.0, 1e-3] {
        let around = (-10..=10).map(|i| offset_s + f64::from(i) * step_s);
        (offset_s, found) =
            best(&mut around.collect::<Vec<_>>().into_iter(), step_s.max(2e-3)).ok_or_else(nothing)?;
    }
    if found < LEAST_CORRELATION {
        return Err(nothing());
    }
    Ok(Alignment { offset_s, correlation: found })
}

/// Rest before the first and behind the last window that takes part in the alignment.
const MARGIN_S: f64 = 0.2;
/// Windows of one marker.
const MARKER_WINDOWS: usize = 8;

fn repriced(
    old: &PhaseProfile,
    protocol: &Protocol,
    trace: &Trace,
    between: &dyn Fn(f64, f64) -> Vec<EnergyReading>,
) -> Result<PhaseProfile> {
    let shape = shape(old)?;
    let parts = old.modules.iter().map(part).collect::<Result<Vec<_>>>()?;
    let record = unseen_record(old)?;
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

/// At most `most` samples of the log over the time of the trials.
fn power_samples(record: &Record, trace: &Trace, most: usize) -> Vec<PowerSample> {
    let (Some(first), Some(last)) = (record.trials.first(), record.trials.last()) else { return Vec::new() };
    let during = first.start_s..=last.start_s + last.duration_s;
    let points: Vec<_> = trace.points().iter().filter(|point| during.contains(&point.time_s)).collect();
    let stride = points.len().div_ceil(most.max(100));
    let thinned = points.into_iter().step_by(stride.max(1));
    thinned.map(|point| PowerSample { time_s: point.time_s - first.start_s, power_w: point.value }).collect()
}
