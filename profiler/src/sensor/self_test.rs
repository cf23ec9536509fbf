//! How well a sensor does on this machine: does it answer, how often does it change, how long does an answer take,
//! and what does it say of an idle machine.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::{Reading, Sensor, SensorKind};
use crate::clock;
use crate::error::Result;
use crate::trace::{Trace, WindowEnergy};

/// What a sensor showed when it was watched for a while.
#[derive(Clone, Debug)]
pub struct SelfTest {
    /// Readings taken.
    pub n_readings: usize,
    /// How often the value was another than before.
    pub n_changes: usize,
    /// Median time between two changes, `None` below two of them.
    pub update_period_s: Option<f64>,
    /// Median time of one reading.
    pub latency_s: f64,
    /// Smallest change that was seen, in the sensor's own unit (joules or watts).
    pub smallest_step: Option<f64>,
    /// Mean power meanwhile.
    pub power_w: Option<f64>,
}

/// Reads a sensor over and over for `duration_s`.
///
/// # Errors
/// When it does not answer.
pub fn self_test(sensor: &mut dyn Sensor, duration_s: f64) -> Result<SelfTest> {
    let info = sensor.info().clone();
    // Fast enough to see each change of a sensor ten times as fast as it says, slow enough to leave it in peace.
    let pause_s = (info.update_period_s / 20.0).clamp(2e-4, 5e-3);
    let start_s = clock::now_s();
    let mut readings: Vec<Reading> = Vec::new();
    let mut latencies = Vec::new();
    while clock::now_s() - start_s < duration_s {
        let before_s = clock::now_s();
        sensor.read(&mut readings)?;
        latencies.push(clock::now_s() - before_s);
        thread::sleep(Duration::from_secs_f64(pause_s));
    }
    let mut trace = Trace::new(&info);
    readings.iter().for_each(|&reading| trace.push(reading));
    let changes: Vec<(f64, f64)> = readings
        .windows(2)
        .filter(|pair| pair[1].value != pair[0].value)
        .map(|pair| (pair[1].time_s, (pair[1].value - pair[0].value).abs()))
        .collect();
    let periods = changes.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    let distinct: BTreeSet<u64> = readings.iter().map(|reading| reading.value.to_bits()).collect();
    let power_w = match (info.kind, readings.first(), readings.last()) {
        (SensorKind::Power, Some(_), Some(_)) => {
            Some(readings.iter().map(|reading| reading.value).sum::<f64>() / readings.len() as f64)
        }
        (SensorKind::EnergyCounter, Some(first), Some(last)) if distinct.len() > 2 => {
            match trace.energy(first.time_s, last.time_s) {
                WindowEnergy::Resolved { energy_j, .. } => Some(energy_j / (last.time_s - first.time_s)),
                WindowEnergy::Unresolved { .. } => None,
            }
        }
        _ => None,
    };
    Ok(SelfTest {
        n_readings: readings.len(),
        n_changes: changes.len(),
        update_period_s: median(periods),
        latency_s: median(latencies).unwrap_or(0.0),
        smallest_step: changes.iter().map(|change| change.1).reduce(f64::min),
        power_w,
    })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::simulated::{SimulatedDevice, SimulatedSensor};

    #[test]
    fn a_counter_is_seen_to_change_as_often_as_it_does() {
        let device = SimulatedDevice::new(10.0);
        let mut sensor = SimulatedSensor::counter(&device, 0.02);
        let test = self_test(&mut sensor, 0.5).unwrap();
        // The median of some 24 periods; each change is seen up to one pause (1 ms) late, more on a busy machine.
        let period_s = test.update_period_s.unwrap();
        assert!((0.015..0.03).contains(&period_s), "{period_s}");
        // Steps are whole periods of 10 W.
        assert!((test.smallest_step.unwrap() - 0.2).abs() < 1e-9);
        assert!((test.power_w.unwrap() - 10.0).abs() < 1.0);
    }

    #[test]
    fn a_dead_sensor_is_an_error() {
        let device = SimulatedDevice::new(10.0);
        assert!(self_test(&mut SimulatedSensor::counter(&device, 0.02).dying_at(0.0), 0.1).is_err());
    }
}
