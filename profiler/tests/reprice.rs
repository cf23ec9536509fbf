//! A profile of a device of known joules, measured again with the log of a meter that watched it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use joulewise_profiler::alignment::align;
use joulewise_profiler::clock::{self, Clock, SimulatedClock};
use joulewise_profiler::energy::Provenance;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::recording::Recording;
use joulewise_profiler::report::json::{ModelSummary, Profile};
use joulewise_profiler::reprice::{attribute_again, reprice};
use joulewise_profiler::sensor::estimator::Estimator;
use joulewise_profiler::sensor::power_log::PowerLogOptions;
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};

use simulation::{IDLE_W, MODULES, SimulatedWorkload, exact_meter};

/// Length of every window.
const WINDOW_S: f64 = 0.1;
/// Spacing of the log.
const STEP_S: f64 = 0.1e-3;

/// A profile, in simulated time, where nobody oversleeps, whose sensor knows nothing of the device.
fn estimated(clock: &Arc<SimulatedClock>, device: &SimulatedDevice) -> Profile {
    profiled(device, &EnergyMeter::simulated(clock, vec![Box::new(Estimator::of_this_cpu())]))
}

fn profiled(device: &SimulatedDevice, meter: &EnergyMeter) -> Profile {
    let mut protocol = Protocol::quick();
    protocol.trials = 2;
    protocol.max_trials = 2;
    protocol.min_window_s = WINDOW_S;
    protocol.replay_min_window_s = WINDOW_S;
    let setup = Setup { meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut result = Profile::new(meter, MeteredDevice::Cpu, protocol.clone());
    result.add_model(ModelSummary::default(), "simulated device");
    let mut workload = SimulatedWorkload::new(device);
    result.put_phase(profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap());
    result
}

/// What a meter on the device would have exported between two moments, counting from its own begin.
fn export(device: &SimulatedDevice, path: &Path, start_s: f64, end_s: f64) {
    let mut text = "#time,current,voltage,power,charge,energy\n".to_owned();
    let mut time_s = start_s;
    while time_s <= end_s {
        // The mean power of the step behind, as a meter averages it.
        let power_w = (device.energy_j(time_s) - device.energy_j(time_s - STEP_S)) / STEP_S;
        text += &format!("{:.7},0,0,{power_w},0,0\n", time_s - start_s);
        time_s += STEP_S;
    }
    fs::write(path, text).unwrap();
}

#[test]
fn a_log_exported_afterwards_takes_the_place_of_the_sensors() {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), IDLE_W);
    let start_s = 4.5;
    clock.wait_until(start_s);
    let mut repriced = estimated(&clock, &device);
    let times_before = repriced.models[0].phases[0].whole.time;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export.csv");
    export(&device, &path, start_s, clock.now_s() + 0.1);
    let options = PowerLogOptions {
        name: "external meter".to_owned(),
        offset_s: clock::to_unix_s(start_s),
        systematic_relative: 0.01,
    };
    reprice(&mut repriced, &Recording::open(&path, &options).unwrap()).unwrap();
    let phase = &repriced.models[0].phases[0];
    assert_eq!(phase.whole.time, times_before, "times are not the meter's business");
    for (row, (path, .., duration_s, power_w)) in phase.modules.iter().zip(MODULES) {
        let replay = row.replay.as_ref().unwrap();
        // At each end of a window, power is blurred over one step at most 60 W high.
        let tolerance_w = 2.0 * STEP_S * 60.0 / WINDOW_S;
        let error_j = (replay.energy_j.unwrap() - power_w * duration_s).abs();
        assert!(error_j <= tolerance_w * duration_s, "{path}: {replay:?}");
        assert_eq!((replay.provenance, replay.sensor.as_str()), (Provenance::Measured, "external meter"));
        assert!((replay.systematic_j / replay.energy_j.unwrap() - 0.01).abs() < 1e-9);
    }
    let primary: Vec<_> = repriced.sensors.iter().filter(|sensor| sensor.is_primary).collect();
    assert_eq!(primary.len(), 1);
    assert_eq!(primary[0].name, "external meter");
    assert!(!phase.power_samples.is_empty());
}

#[test]
fn windows_beside_the_log_become_unresolved() {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), IDLE_W);
    let mut repriced = estimated(&clock, &device);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other-day.csv");
    fs::write(&path, "time,watts\n1500000000,5\n1500000001,5\n1500000002,5\n").unwrap();
    reprice(&mut repriced, &Recording::open(&path, &PowerLogOptions::default()).unwrap()).unwrap();
    let phase = &repriced.models[0].phases[0];
    assert_eq!((phase.whole.energy.energy_j, phase.whole.energy.provenance), (None, Provenance::Unresolved));
    assert!(phase.modules.iter().all(|row| row.first_order.energy_j.is_none()));
}

#[test]
fn a_log_that_counts_from_its_own_begin_is_aligned_by_the_load() {
    // Nothing but the rest before, between and after tells.
    let clock = SimulatedClock::new();
    clock.wait_until(5.0);
    let device = SimulatedDevice::on(clock.clone(), IDLE_W);
    let mut protocol = Protocol::quick();
    protocol.trials = 2;
    protocol.max_trials = 2;
    protocol.marker = true;
    let meter = EnergyMeter::simulated(&clock, vec![Box::new(SimulatedSensor::counter(&device, 1e-3))]);
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut repriced = Profile::new(&meter, MeteredDevice::Cpu, protocol.clone());
    repriced.add_model(ModelSummary::default(), "simulated device");
    let mut workload = SimulatedWorkload::new(&device);
    repriced.put_phase(profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap());
    let start_s = 4.5;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export.csv");
    export(&device, &path, start_s - 0.2, clock.now_s() + 0.3);
    let options = PowerLogOptions::default();
    let mut recording = Recording::open(&path, &options).unwrap();
    let alignment = align(&repriced, &recording, None).unwrap();
    // The log's 0 lies at start_s - 0.2; the search ends with steps of a millisecond on samples two apart.
    assert!((alignment.offset_s - (start_s - 0.2)).abs() <= 3e-3, "{alignment:?}, truth {}", start_s - 0.2);
    assert!(alignment.correlation > 0.5, "{alignment:?}");
    recording.shift(alignment.offset_s);
    reprice(&mut repriced, &recording).unwrap();
    assert_eq!(repriced.models[0].phases[0].whole.energy.provenance, Provenance::Measured);
    // Power that does what it likes is refused.
    fs::write(&path, "time,watts\n0,5\n1,5\n2,5\n60,5\n").unwrap();
    let recording = Recording::open(&path, &options).unwrap();
    assert!(align(&repriced, &recording, None).is_err());
    assert!(align(&repriced, &recording, Some("gpi0")).unwrap_err().to_string().contains("it has: none"));
}

#[test]
fn a_digital_line_aligns_a_recording_to_its_samples() {
    let clock = SimulatedClock::new();
    clock.wait_until(5.0);
    let device = SimulatedDevice::on(clock.clone(), IDLE_W);
    let mut protocol = Protocol::quick();
    protocol.trials = 2;
    protocol.max_trials = 2;
    protocol.marker = true;
    // Wired to the meter's digital input: it sees every level when it is set.
    let edges: Arc<Mutex<Vec<(f64, bool)>>> = Arc::default();
    let (wire, time) = (Arc::clone(&edges), clock.clone());
    let sensor = SimulatedSensor::counter(&device, 1e-3);
    let meter = EnergyMeter::simulated(&clock, vec![Box::new(sensor)]).marking(Box::new(move |level| {
        wire.lock().unwrap().push((time.now_s(), level));
        Ok(())
    }));
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut measured = Profile::new(&meter, MeteredDevice::Cpu, protocol.clone());
    measured.add_model(ModelSummary::default(), "simulated device");
    let mut workload = SimulatedWorkload::new(&device);
    measured.put_phase(profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap());
    // What the meter would export, on a clock of its own that began at 4.321 s.
    let begin_s = 4.321;
    let edges = edges.lock().unwrap();
    let mut text = "time,power,gpi0\n".to_owned();
    let mut at_s = begin_s + STEP_S;
    while at_s <= clock.now_s() + 0.3 {
        let power_w = (device.energy_j(at_s) - device.energy_j(at_s - STEP_S)) / STEP_S;
        let level = edges.iter().rev().find(|(edge_s, _)| *edge_s <= at_s).is_some_and(|(_, level)| *level);
        text += &format!("{:.7},{power_w},{}\n", at_s - begin_s, u8::from(level));
        at_s += STEP_S;
    }
    assert_eq!(edges.len(), 16, "eight pulses");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export.csv");
    fs::write(&path, text).unwrap();
    let mut recording = Recording::open(&path, &PowerLogOptions::default()).unwrap();
    let alignment = align(&measured, &recording, Some("gpi0")).unwrap();
    // An edge is seen with the sample behind it: up to a step late, all of them alike.
    assert!((alignment.offset_s - begin_s).abs() <= STEP_S, "{alignment:?}, truth {begin_s}");
    recording.shift(alignment.offset_s);
    reprice(&mut measured, &recording).unwrap();
    assert_eq!(measured.models[0].phases[0].whole.energy.provenance, Provenance::Measured);
}

#[test]
fn windows_that_are_attributed_again_by_the_same_version_say_the_same() {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), IDLE_W);
    let before = profiled(&device, &exact_meter(&clock, &device));
    // What is written and read back is what there is to go by.
    let mut again: Profile = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
    attribute_again(&mut again).unwrap();
    let (before, again) = (&before.models[0].phases[0], &again.models[0].phases[0]);
    assert!(before.whole.energy.energy_j.is_some_and(|energy_j| energy_j > 0.0));
    assert_eq!(before.whole.energy, again.whole.energy);
    assert_eq!(before.whole.time, again.whole.time);
    assert!(!before.classes.is_empty());
    for (before, again) in before.classes.iter().zip(&again.classes) {
        assert_eq!(
            (&before.energy, before.time, before.misfit_j),
            (&again.energy, again.time, again.misfit_j)
        );
    }
    for (before, again) in before.modules.iter().zip(&again.modules) {
        assert_eq!(before.regression, again.regression, "{}", before.path);
        assert_eq!(before.first_order, again.first_order, "{}", before.path);
    }
    assert_eq!(before.notes, again.notes);
}
