//! The page of a profile in a real browser.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod chromium;
#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::ops::ControlFlow;
use std::path::Path;

use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::report;
use joulewise_profiler::report::json::{ModelSummary, Profile};
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};

use simulation::SimulatedWorkload;

/// Writes the report of a simulated device.
fn write_report(directory: &Path) {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), 20.0);
    let sensor = SimulatedSensor::counter(&device, 0.1).with_counter_noise(0.01, 1);
    let meter = EnergyMeter::simulated(&clock, vec![Box::new(sensor)]);
    let mut protocol = Protocol::quick();
    protocol.replay_min_updates = 6.0;
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut result = Profile::new(&meter, MeteredDevice::Cpu, protocol.clone());
    result
        .add_model(ModelSummary { name: "model".to_owned(), ..ModelSummary::default() }, "simulated device");
    let mut workload = SimulatedWorkload::new(&device);
    let phase = profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut decode = phase.clone();
    decode.name = "decode".to_owned();
    result.put_phase(phase);
    result.put_phase(decode);
    report::write(directory, &result).unwrap();
}

#[test]
fn the_page_draws_all_its_charts_and_complains_of_nothing() {
    let directory = tempfile::tempdir().unwrap();
    write_report(directory.path());
    let parts = [
        "<polyline points",
        "class=\"roof\"",
        "class=\"dot ",
        "class=\"whisker\"",
        "class=\"fall ",
        "class=\"heat\"",
        "Joules per layer",
        "Phases side by side",
        "Classes of modules, by regression",
        "From parts to whole",
        "Joules per operation",
    ];
    chromium::check(&directory.path().join("report.html"), &parts);
}
