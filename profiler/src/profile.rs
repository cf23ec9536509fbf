//! One call from a workload to a phase of a profile.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::attribution::{Basis, attribute, is_precise};
use crate::error::Result;
use crate::experiment::{Experiment, Follow, Progress, Protocol, Record};
use crate::meter::{EnergyMeter, MeteredDevice};
use crate::report::json::{PhaseProfile, PowerSample};
use crate::sensor::estimator::WorkCounter;
use crate::workload::{Part, Workload, WorkloadShape};

/// Power samples that a phase keeps.
const POWER_SAMPLES: usize = 600;

/// With what and how a workload is measured.
pub struct Setup<'a> {
    /// The sensors.
    pub meter: &'a EnergyMeter,
    /// Which of them count.
    pub device: MeteredDevice,
    /// Where an estimator of a GPU counts work, if there is one.
    pub work: Option<Arc<WorkCounter>>,
    /// The protocol.
    pub protocol: &'a Protocol,
}

/// What is there after a trial.
pub struct Update<'a> {
    /// How far the experiment is.
    pub progress: Progress,
    shape: WorkloadShape,
    parts: &'a [Part],
    record: &'a Record,
    setup: &'a Setup<'a>,
}

impl Update<'_> {
    /// The phase from the trials so far, as good as a finished one but for its uncertainty and `is_complete`.
    pub fn phase(&self) -> PhaseProfile {
        phase(self.shape, self.parts, self.record, self.setup)
    }
}

/// Measures a workload. `on_update` is called before the first and after each trial; it may keep the partial phase,
/// and it may end the measurement early, whose trials so far are then the result.
///
/// # Errors
/// When the device fails.
pub fn profile(
    workload: &mut dyn Workload,
    setup: &Setup<'_>,
    on_update: &mut dyn FnMut(&Update<'_>) -> ControlFlow<()>,
) -> Result<PhaseProfile> {
    resume(Record::default(), workload, setup, on_update)
}

/// Goes on with a measurement of which `earlier` holds the trials so far.
///
/// # Errors
/// When the device fails.
pub fn resume(
    earlier: Record,
    workload: &mut dyn Workload,
    setup: &Setup<'_>,
    on_update: &mut dyn FnMut(&Update<'_>) -> ControlFlow<()>,
) -> Result<PhaseProfile> {
    let shape = workload.shape();
    let parts = workload.parts().to_vec();
    let primary = setup.meter.primary(setup.device);
    let update_period_s = setup.meter.update_period_s(&primary);
    let experiment = Experiment::new(
        workload,
        setup.meter,
        setup.device,
        update_period_s,
        setup.work.clone(),
        setup.protocol,
    );
    let mut follower = Follower { shape, parts: &parts, setup, on_update };
    let record = experiment.run(earlier, &mut follower)?;
    setup.meter.settle(setup.meter.clock().now_s());
    Ok(phase(shape, &parts, &record, setup))
}

/// Passes an experiment's progress on.
struct Follower<'a> {
    shape: WorkloadShape,
    parts: &'a [Part],
    setup: &'a Setup<'a>,
    on_update: &'a mut dyn FnMut(&Update<'_>) -> ControlFlow<()>,
}

impl Follow for Follower<'_> {
    fn trial(&mut self, record: &Record, progress: Progress) -> ControlFlow<()> {
        let Follower { shape, parts, setup, .. } = *self;
        (self.on_update)(&Update { progress, shape, parts, record, setup })
    }

    fn is_precise(&mut self, record: &Record) -> bool {
        let meter = self.setup.meter;
        meter.settle(meter.clock().now_s());
        with_basis(self.shape, self.parts, record, self.setup, &is_precise)
    }
}

fn with_basis<T>(
    shape: WorkloadShape,
    parts: &[Part],
    record: &Record,
    setup: &Setup<'_>,
    then: &dyn Fn(&Basis<'_>) -> T,
) -> T {
    let primary = setup.meter.primary(setup.device);
    let energy_between = |start_s, end_s| setup.meter.energy_between(start_s, end_s);
    let protocol = setup.protocol;
    then(&Basis { shape, parts, record, energy_between: &energy_between, primary: &primary, protocol })
}

fn phase(shape: WorkloadShape, parts: &[Part], record: &Record, setup: &Setup<'_>) -> PhaseProfile {
    let primary = setup.meter.primary(setup.device);
    let mut phase = with_basis(shape, parts, record, setup, &attribute);
    // An earlier process has its own samples; the meter knows those of this one.
    let mut known = record.trials.iter().filter(|trial| trial.seen.is_none());
    if let (Some(first), Some(from), Some(last), Some(&sensor)) =
        (record.trials.first(), known.clone().next(), known.next_back(), primary.first())
    {
        let end_s = last.start_s + last.duration_s;
        let samples = setup.meter.power_samples(sensor, from.start_s, end_s, POWER_SAMPLES);
        phase.power_samples = samples
            .into_iter()
            .map(|sample| PowerSample { time_s: sample.time_s - first.start_s, power_w: sample.value })
            .collect();
    }
    phase
}
