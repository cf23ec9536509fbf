//! One call from a workload to a phase of a profile.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::attribution::attribute;
use crate::clock;
use crate::error::Result;
use crate::experiment::{Experiment, Progress, Protocol, Record};
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
    let shape = workload.shape();
    let parts = workload.parts().to_vec();
    let primary = setup.meter.primary(setup.device);
    let update_period_s = setup.meter.update_period_s(&primary);
    let experiment =
        Experiment::new(workload, setup.meter, update_period_s, setup.work.clone(), setup.protocol);
    let record = experiment
        .run(&mut |record, progress| on_update(&Update { progress, shape, parts: &parts, record, setup }))?;
    setup.meter.settle(clock::now_s());
    Ok(phase(shape, &parts, &record, setup))
}

fn phase(shape: WorkloadShape, parts: &[Part], record: &Record, setup: &Setup<'_>) -> PhaseProfile {
    let primary = setup.meter.primary(setup.device);
    let energy_between = |start_s, end_s| setup.meter.energy_between(start_s, end_s);
    let mut phase = attribute(shape, parts, record, &energy_between, &primary);
    if let (Some(first), Some(last), Some(&sensor)) =
        (record.trials.first(), record.trials.last(), primary.first())
    {
        let end_s = last.start_s + last.duration_s;
        let samples = setup.meter.power_samples(sensor, first.start_s, end_s, POWER_SAMPLES);
        phase.power_samples = samples
            .into_iter()
            .map(|sample| PowerSample { time_s: sample.time_s - first.start_s, power_w: sample.value })
            .collect();
    }
    phase
}
