//! The page in a real browser, where there is one: no complaint on the console, every chart drawn, nothing fetched.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it skipped")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::report;
use joulewise_profiler::report::json::{ModelSummary, Profile};
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};

use simulation::SimulatedWorkload;

const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];

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
    result.put_phase(profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap());
    report::write(directory, &result).unwrap();
}

#[test]
fn the_page_draws_all_its_charts_and_complains_of_nothing() {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = BROWSERS.iter().find(is_there) else {
        println!("SKIP browser: none of {BROWSERS:?} is installed, the page was not tried");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    write_report(directory.path());
    let page = format!("file://{}", directory.path().join("report.html").display());
    let data = format!("--user-data-dir={}", directory.path().join("browser").display());
    for scheme in ["0", "1"] {
        let output = Command::new(browser)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
            .args([
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--virtual-time-budget=5000",
                "--dump-dom",
                &data,
            ])
            .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
            .arg(&page)
            .output()
            .unwrap();
        let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{browser} failed: {log}");
        let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        for chart in [
            "<polyline",
            "class=\"dot ",
            "class=\"whisker\"",
            "class=\"fall ",
            "class=\"heat\"",
            "Joules per layer",
            "Classes of modules, by regression",
            "From parts to whole",
        ] {
            assert!(dom.contains(chart), "{chart} is not on the page");
        }
    }
}
