//! Energies of windows over simulated sensors, compared with the device's own truth. Time is simulated too.

#![expect(clippy::panic, reason = "helpers of tests fail by panicking")]

use joulewise_profiler::sensor::Sensor;
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};
use joulewise_profiler::trace::{Trace, WindowEnergy};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// The trace of a sensor that is polled every `poll_s` until `end_s`, failures noted.
fn trace(mut sensor: SimulatedSensor, poll_s: f64, end_s: f64) -> Trace {
    let mut trace = Trace::new(sensor.info());
    let polls = (end_s / poll_s).round() as usize;
    for poll in 0..=polls {
        let time_s = poll as f64 * poll_s;
        match sensor.read_at(time_s) {
            Ok(reading) => trace.push(reading),
            Err(error) => trace.fail(time_s, &error.to_string()),
        }
    }
    trace
}

fn resolved(trace: &Trace, start_s: f64, end_s: f64) -> (f64, f64, u64) {
    match trace.energy(start_s, end_s) {
        WindowEnergy::Resolved { energy_j, sampling_sd_j, updates } => (energy_j, sampling_sd_j, updates),
        WindowEnergy::Unresolved { reason, .. } => panic!("unresolved: {reason}"),
    }
}

fn unresolved(trace: &Trace, start_s: f64, end_s: f64) -> (Option<f64>, String) {
    match trace.energy(start_s, end_s) {
        WindowEnergy::Unresolved { upper_bound_j, reason, .. } => (upper_bound_j, reason),
        WindowEnergy::Resolved { energy_j, .. } => panic!("resolved to {energy_j} J"),
    }
}

#[test]
fn a_homogeneous_window_between_idle_stretches_is_exact_to_the_polling() {
    // 100 W at rest, 300 W from 2.03 s to 7.03 s: 1500 J. The counter changes every 100 ms, seen to 5 ms.
    let device = SimulatedDevice::new(100.0);
    device.set_power_at(2.03, 300.0);
    device.set_power_at(7.03, 100.0);
    let trace = trace(SimulatedSensor::counter(&device, 0.1), 0.005, 10.0);
    // The window opens behind the change at 2.1 s, so that no update within it saw the rest: from 2.05 s on the
    // first change inside (2.1 s) still closes a period that began at rest, but its value is only a starting point.
    let (energy_j, sampling_sd_j, updates) = resolved(&trace, 2.05, 7.02);
    assert!((energy_j - 300.0 * 4.97).abs() < 300.0 * 0.005, "{energy_j} J");
    assert_eq!(updates, 49);
    // The moments of both changes are known to one poll.
    assert!(sampling_sd_j <= 300.0 * 0.005 / 6.0_f64.sqrt() * 1.1, "{sampling_sd_j}");
}

#[test]
fn the_stated_sampling_error_is_the_real_one() {
    // A counter of 100 ms polled about every 19.3 ms, windows of 1 s at every phase: the errors of all windows must have
    // the standard deviation that each window states for itself.
    let device = SimulatedDevice::new(50.0);
    let mut sensor = SimulatedSensor::counter(&device, 0.1);
    let mut random = Pcg64::seed_from_u64(1);
    let (mut trace, mut time_s) = (Trace::new(sensor.info()), 0.0);
    while time_s < 100.0 {
        trace.push(sensor.read_at(time_s).unwrap());
        time_s += 0.0193 * random.random_range(0.7..1.3);
    }
    let (mut squares, mut stated, mut n) = (0.0, 0.0, 0);
    let mut start_s = 1.0;
    while start_s < 98.0 {
        let (energy_j, sampling_sd_j, _) = resolved(&trace, start_s, start_s + 1.0);
        squares += (energy_j - 50.0_f64).powi(2);
        stated += sampling_sd_j;
        n += 1;
        start_s += 0.0737;
    }
    let real = (squares / f64::from(n)).sqrt();
    let stated = stated / f64::from(n);
    // A window rests on the changes in it and in 2.5 s on either side, so 16 are independent and their standard deviation is
    // known to 1 / sqrt(2 * 16) = 18 %. Three of these.
    assert!((real / stated - 1.0).abs() < 0.53, "real {real}, stated {stated}");
}

#[test]
fn changes_that_slipped_in_unseen_are_not_taken_for_the_windows_ends() {
    // 100 W; a poll every 2 ms, but nobody looks between 1.55 s and 1.67 s, nor between 4.35 s and 4.47 s.
    let device = SimulatedDevice::new(100.0);
    let mut sensor = SimulatedSensor::counter(&device, 0.1);
    let mut trace = Trace::new(sensor.info());
    for poll in 0..3000 {
        let time_s = f64::from(poll) * 2e-3;
        if !(1.55..1.67).contains(&time_s) && !(4.35..4.47).contains(&time_s) {
            trace.push(sensor.read_at(time_s).unwrap());
        }
    }
    // The first change within is the one seen late, at 1.67 s instead of 1.6 s, the last that of 4.4 s, seen at 4.47 s.
    let (energy_j, sampling_sd_j, _) = resolved(&trace, 1.56, 4.48);
    // Both ends are known to a poll of 2 ms.
    assert!((energy_j - 292.0).abs() <= 2.0 * 0.2, "{energy_j} J");
    assert!(sampling_sd_j <= 100.0 * 2e-3 / 6.0_f64.sqrt() * 1.3, "{sampling_sd_j}");
}

#[test]
fn a_window_without_two_changes_is_unresolved_and_bounded() {
    let device = SimulatedDevice::new(80.0);
    let trace = trace(SimulatedSensor::counter(&device, 0.1), 0.005, 5.0);
    // Between two changes: no delta at all. The readings around it bound it by one period.
    let (bound_j, reason) = unresolved(&trace, 2.02, 2.07);
    assert!(
        (bound_j.unwrap() - 8.0).abs() < 1e-9 && reason.contains("did not change"),
        "{bound_j:?} {reason}"
    );
    // One change: two periods around it.
    let (bound_j, _) = unresolved(&trace, 2.05, 2.15);
    assert!((bound_j.unwrap() - 16.0).abs() < 1e-9);
    // Behind the last reading nothing is known but the highest power so far, which was seen as one period of 8 J
    // between two polls that may lie one poll apart from the period: 8 J / 95 ms.
    let (bound_j, _) = unresolved(&trace, 5.01, 5.05);
    assert!((80.0 * 0.14..=8.0 / 0.095 * 0.14 + 1e-9).contains(&bound_j.unwrap()));
}

#[test]
fn few_updates_are_counted_as_few() {
    let device = SimulatedDevice::new(80.0);
    let trace = trace(SimulatedSensor::counter(&device, 0.1), 0.005, 5.0);
    assert_eq!(resolved(&trace, 1.0, 1.35).2, 3);
    assert_eq!(resolved(&trace, 1.0, 3.05).2, 20);
}

#[test]
fn wraps_are_added_and_resets_are_not_trusted() {
    let device = SimulatedDevice::new(100.0);
    // The counter wraps every 0.7 s.
    let wrapping = trace(SimulatedSensor::counter(&device, 0.01).with_range(70.0), 0.005, 5.0);
    let (energy_j, _, _) = resolved(&wrapping, 1.0, 4.0);
    // Both ends are known to one poll: 5 ms of 100 W each.
    assert!((energy_j - 300.0).abs() <= 2.0 * 0.5, "{energy_j} J");
    let reset = trace(SimulatedSensor::counter(&device, 0.01).reset_at(2.5), 0.005, 5.0);
    assert!(unresolved(&reset, 1.0, 4.0).1.contains("reset"));
    // Before and after it, all is well.
    assert!((resolved(&reset, 1.0, 2.4).0 - 140.0).abs() <= 1.0);
    assert!((resolved(&reset, 2.6, 4.0).0 - 140.0).abs() <= 1.0);
}

#[test]
fn a_sensor_that_dies_leaves_earlier_windows_alone() {
    let device = SimulatedDevice::new(100.0);
    for sensor in [SimulatedSensor::counter(&device, 0.01), SimulatedSensor::power(&device, 0.01)] {
        let dying = trace(sensor.dying_at(3.0), 0.01, 5.0);
        assert!((resolved(&dying, 1.0, 2.0).0 - 100.0).abs() <= 2.0);
        assert!(unresolved(&dying, 2.0, 4.0).1.contains("it died"));
        assert!(unresolved(&dying, 4.0, 5.0).1.contains("it died"));
    }
}

#[test]
fn power_samples_are_integrated_by_the_trapezoid_rule() {
    let device = SimulatedDevice::new(10.0);
    device.set_power_at(2.0, 30.0);
    let trace = trace(SimulatedSensor::power(&device, 0.1), 0.1, 5.0);
    // 10 W for 1 s, one interval of 0.1 s that rises from 10 W to 30 W (the sample at 2.0 s is the first at 30 W), and
    // 30 W for 1 s: the truth is 40 J, the rule sees 10 W until 1.9 s and 20 W on average until 2.0 s: 41 J.
    let (energy_j, sampling_sd_j, updates) = resolved(&trace, 1.0, 3.0);
    assert!((energy_j - 41.0).abs() < 1e-9, "{energy_j} J");
    assert_eq!(updates, 19);
    // Half the samples at 10 W and half at 30 W: their standard deviation is 10 W next to n / (n - 1).
    assert!((sampling_sd_j - 10.0 * 2.0 / 19.0_f64.sqrt()).abs() < 0.2, "{sampling_sd_j}");
}

#[test]
fn noise_on_power_averages_out_within_the_stated_error() {
    let device = SimulatedDevice::new(100.0);
    let mut inside = 0;
    for seed in 0..200 {
        let sensor = SimulatedSensor::power(&device, 0.01).with_noise(0.3, seed);
        let trace = trace(sensor, 0.01, 1.2);
        let (energy_j, sampling_sd_j, _) = resolved(&trace, 0.1, 1.1);
        inside += usize::from((energy_j - 100.0).abs() <= 1.96 * sampling_sd_j);
    }
    // 95 % of 200 is 190; four standard deviations of a binomial count below it is 190 - 4 * 3.08.
    assert!(inside >= 177, "{inside} of 200 intervals hold the truth");
}
