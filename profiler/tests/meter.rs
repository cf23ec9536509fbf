//! The meter in real time: windows that nest and overlap, provenance, and the choice among sensors.

use std::thread::sleep;
use std::time::Duration;

use joulewise_profiler::clock;
use joulewise_profiler::energy::Provenance;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::sensor::power_log::{PowerLog, PowerLogOptions};
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};
use joulewise_profiler::sensor::{Reading, Scope, Sensor, SensorInfo};

fn pause(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds));
}

#[test]
fn nested_and_overlapping_windows_each_hold_their_own_energy() {
    // 40 W throughout: every window must read 40 W times its own length, however they lie.
    let device = SimulatedDevice::new(40.0);
    let sensor = SimulatedSensor::counter(&device, 1e-3).named("simulated", 0.05);
    let meter = EnergyMeter::start(vec![Box::new(sensor)]);
    let outer = meter.begin();
    pause(0.05);
    let inner = meter.begin();
    pause(0.05);
    let overlapping = meter.begin();
    pause(0.05);
    let measured = [meter.end(inner), meter.end(outer)];
    pause(0.05);
    for measurement in measured.iter().chain([&meter.end(overlapping)]) {
        let reading = &measurement.readings[0];
        let energy_j = reading.energy_j.unwrap();
        // A fast counter is read at both ends of the window: each is known to its period of 1 ms.
        assert!((energy_j - 40.0 * measurement.duration_s).abs() <= 40.0 * 2e-3, "{reading:?}");
        assert_eq!(reading.provenance, Provenance::Measured);
        assert!((reading.systematic_j - 0.05 * energy_j).abs() < 1e-12);
    }
    assert!(measured[1].duration_s > measured[0].duration_s);
}

#[test]
fn a_change_of_power_within_a_window_is_seen() {
    let device = SimulatedDevice::new(10.0);
    let meter = EnergyMeter::start(vec![Box::new(SimulatedSensor::counter(&device, 1e-3))]);
    let window = meter.begin();
    pause(0.1);
    device.set_power_w(90.0);
    pause(0.1);
    let measurement = meter.end(window);
    let truth_j =
        device.energy_j(measurement.start_s + measurement.duration_s) - device.energy_j(measurement.start_s);
    let energy_j = measurement.readings[0].energy_j.unwrap();
    assert!((energy_j - truth_j).abs() <= 90.0 * 2e-3, "{energy_j} J, truth {truth_j} J");
}

#[test]
fn a_window_shorter_than_the_update_period_is_unresolved_and_not_zero() {
    let device = SimulatedDevice::new(40.0);
    let meter = EnergyMeter::start(vec![Box::new(SimulatedSensor::counter(&device, 10.0))]);
    let window = meter.begin();
    pause(0.02);
    let reading = &meter.end(window).readings[0];
    assert_eq!((reading.energy_j, reading.provenance), (None, Provenance::Unresolved));
    assert!(reading.reason.is_some());
}

#[test]
fn a_counter_that_does_not_move_is_unresolved_and_not_zero() {
    // A device that draws nothing, under a counter that is fast enough to have told otherwise.
    let device = SimulatedDevice::new(0.0);
    let meter = EnergyMeter::start(vec![Box::new(SimulatedSensor::counter(&device, 1e-3))]);
    let window = meter.begin();
    pause(0.05);
    let measurement = meter.end(window);
    let reading = &measurement.readings[0];
    assert_eq!((reading.energy_j, reading.provenance), (None, Provenance::Unresolved));
    assert_eq!(measurement.energy(&[0]).energy_j, None);
}

#[test]
fn few_updates_within_a_window_are_low_resolution() {
    let device = SimulatedDevice::new(40.0);
    let meter = EnergyMeter::start(vec![Box::new(SimulatedSensor::counter(&device, 0.05))]);
    let window = meter.begin();
    pause(0.28);
    let reading = &meter.end(window).readings[0];
    assert_eq!(reading.provenance, Provenance::MeasuredLowResolution, "{reading:?}");
    assert!((3..10).contains(&reading.updates), "{reading:?}");
}

#[test]
fn a_sensor_that_never_answers_is_unresolved_with_its_own_words() {
    let device = SimulatedDevice::new(40.0);
    let dead = SimulatedSensor::counter(&device, 1e-3).dying_at(0.0);
    let meter = EnergyMeter::start(vec![Box::new(dead)]);
    let window = meter.begin();
    pause(0.01);
    let reading = &meter.end(window).readings[0];
    assert_eq!(reading.energy_j, None);
    assert!(reading.reason.as_deref().is_some_and(|reason| reason.contains("it died")), "{reading:?}");
}

/// A sensor that exists for its scope.
struct Scoped(SensorInfo);

impl Sensor for Scoped {
    fn info(&self) -> &SensorInfo {
        &self.0
    }

    fn read(&mut self, _: &mut Vec<Reading>) -> joulewise_profiler::Result<()> {
        Ok(())
    }
}

fn meter_over(scopes: &[(Scope, bool)]) -> EnergyMeter {
    let device = SimulatedDevice::new(1.0);
    let template = SimulatedSensor::counter(&device, 1e-3);
    let sensors = scopes.iter().map(|(scope, counts_in_total)| {
        let info =
            SensorInfo { scope: scope.clone(), counts_in_total: *counts_in_total, ..template.info().clone() };
        Box::new(Scoped(info)) as Box<dyn Sensor>
    });
    EnergyMeter::start(sensors.collect())
}

#[test]
fn the_energy_of_a_device_is_the_sum_of_disjoint_scopes_and_nothing_else() {
    let gpu = |index| (Scope::Gpu { index }, true);
    let server = meter_over(&[
        gpu(0),
        (Scope::Gpu { index: 0 }, false),
        gpu(1),
        (Scope::CpuPackage { index: 0 }, true),
        (Scope::CpuCores { package: 0 }, false),
        (Scope::Dram { package: 0 }, true),
        (Scope::Platform, false),
    ]);
    assert_eq!(server.primary(MeteredDevice::Gpu { index: 1 }), [2]);
    assert_eq!(server.primary(MeteredDevice::Cpu), [3, 5]);
    let board = meter_over(&[(Scope::Board { rail: "VDD_IN".into() }, true), (Scope::Process, true)]);
    assert_eq!(board.primary(MeteredDevice::Cpu), [0]);
    let bare = meter_over(&[(Scope::Process, true)]);
    assert_eq!(bare.primary(MeteredDevice::Cpu), [0]);
    assert!(bare.primary(MeteredDevice::Gpu { index: 0 }).is_empty());
    let own =
        meter_over(&[(Scope::CpuPackage { index: 0 }, true), (Scope::External { name: "js".into() }, true)]);
    assert_eq!(own.primary(MeteredDevice::Cpu), [1]);
}

#[test]
fn a_power_log_is_followed_while_a_meter_writes_it() {
    // A meter of 20 ms that writes 7 W, in calendar time, while the window is open and a little beyond.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.csv");
    let write = {
        let path = path.clone();
        move |until_s: f64| {
            let mut text = "time,watts\n".to_owned();
            let mut time_s = -0.1;
            while time_s <= until_s {
                text += &format!("{:.6},7\n", clock::to_unix_s(time_s));
                time_s += 0.02;
            }
            std::fs::write(&path, text).unwrap();
        }
    };
    write(clock::now_s());
    let log = PowerLog::open(&path, &PowerLogOptions::default()).unwrap();
    let meter = EnergyMeter::start(vec![Box::new(log)]);
    let writer = std::thread::spawn(move || {
        for _ in 0..30 {
            pause(0.02);
            write(clock::now_s());
        }
    });
    let window = meter.begin();
    pause(0.3);
    let measurement = meter.end(window);
    writer.join().unwrap();
    let reading = &measurement.readings[0];
    // Constant power: only the calendar times' six decimals are lost, at both ends.
    assert!((reading.energy_j.unwrap() - 7.0 * measurement.duration_s).abs() < 7.0 * 2e-6, "{reading:?}");
    assert_eq!(reading.provenance, Provenance::Measured);
}
