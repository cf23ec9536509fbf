//! A profile measured again with the log of an external meter that was exported afterwards.
//!
//! A profile keeps every window with its calendar time. So a recording that was made meanwhile (a Joulescope's, a wall
//! meter's) can take the place of the sensors after the fact: the windows and times stay, the energies are new. Where the
//! meter's clock does not tell the calendar, [`align`](crate::alignment::align) finds out how it stands. The windows of a
//! profile can also be attributed again as they are, by a version that does that better than the one that measured.

use joulewise_engine::{Cost, ModuleId, ModuleKind, Phase};

use crate::attribution::{Basis, attribute};
use crate::energy::EnergyReading;
use crate::error::Result;
use crate::experiment::{Protocol, Record};
use crate::meter::reading;
use crate::recording::Recording;
use crate::report::json::{ModuleRow, PhaseProfile, PowerSample, Profile, SensorRow};
use crate::resume::{self, unknown, unseen_record};
use crate::trace::Trace;
use crate::workload::{Part, WorkloadShape};

/// Replaces all energies of a profile by those of a recording. Windows that it does not cover become unresolved.
///
/// # Errors
/// [`ProfilerError::Protocol`](crate::error::ProfilerError::Protocol) when the profile names what this version does not know.
pub fn reprice(profile: &mut Profile, recording: &Recording) -> Result<()> {
    let Recording { trace, info, .. } = recording;
    let between = |start_s: f64, end_s: f64| vec![reading(trace, info, start_s, end_s)];
    let protocol = profile.protocol.clone();
    for phase in profile.models.iter_mut().flat_map(|model| &mut model.phases) {
        *phase = repriced(phase, &protocol, trace, &between)?;
    }
    profile.sensors.iter_mut().for_each(|sensor| sensor.is_primary = false);
    profile.sensors.push(SensorRow::of(info, true));
    Ok(())
}

/// Attributes the energies of a profile again, from its windows and what its sensors said of them.
///
/// # Errors
/// As [`reprice`].
pub fn attribute_again(profile: &mut Profile) -> Result<()> {
    let (protocol, sensors) = (profile.protocol.clone(), profile.sensors.clone());
    for phase in profile.models.iter_mut().flat_map(|model| &mut model.phases) {
        let record = resume::record(phase, &sensors)?;
        // Every window has its energies.
        let power_samples = std::mem::take(&mut phase.power_samples);
        *phase = PhaseProfile { power_samples, ..attributed(phase, &protocol, &record, &|_, _| Vec::new())? };
    }
    Ok(())
}

fn repriced(
    old: &PhaseProfile,
    protocol: &Protocol,
    trace: &Trace,
    between: &dyn Fn(f64, f64) -> Vec<EnergyReading>,
) -> Result<PhaseProfile> {
    let record = unseen_record(old)?;
    let power_samples = power_samples(&record, trace, old.power_samples.len());
    Ok(PhaseProfile { power_samples, ..attributed(old, protocol, &record, between)? })
}

fn attributed(
    old: &PhaseProfile,
    protocol: &Protocol,
    record: &Record,
    energy_between: &dyn Fn(f64, f64) -> Vec<EnergyReading>,
) -> Result<PhaseProfile> {
    let parts = old.modules.iter().map(part).collect::<Result<Vec<_>>>()?;
    let basis = Basis { shape: shape(old)?, parts: &parts, record, energy_between, primary: &[0], protocol };
    Ok(PhaseProfile { timeline: old.timeline.clone(), ..attribute(&basis) })
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
        // Classes are known by now, which is all that this is for.
        is_joined: false,
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
