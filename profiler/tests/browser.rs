//! The page in a real browser, where there is one: no complaint on the console, every chart drawn, nothing fetched.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::fs;
use std::io::{self, Write};
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
    let phase = profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut decode = phase.clone();
    decode.name = "decode".to_owned();
    result.put_phase(phase);
    result.put_phase(decode);
    report::write(directory, &result).unwrap();
    // What a script sees of the width, for the test to read: a page that is wider than its window scrolls sideways.
    let page = fs::read_to_string(directory.join("report.html")).unwrap();
    let measured =
        "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script>";
    fs::write(directory.join("measured.html"), page.replace("</body>", &format!("{measured}</body>")))
        .unwrap();
}

/// Opens a page: what became of it, and what the browser complained of.
fn open(browser: &str, page: &Path, scheme: &str, width: usize) -> (String, Vec<String>) {
    let data = page.with_file_name("browser");
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", data.display()))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--window-size={width},900"))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{browser} failed: {log}");
    let complaints = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    (String::from_utf8_lossy(&output.stdout).into_owned(), complaints)
}

#[test]
fn the_page_draws_all_its_charts_and_complains_of_nothing() {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = BROWSERS.iter().find(is_there) else {
        // Past the test runner, which swallows what passing tests print.
        let _ =
            writeln!(io::stderr(), "SKIP browser: none of {BROWSERS:?} is installed, the page was not tried");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    write_report(directory.path());
    // Dark and light, wide and narrow; 500 pixels are as narrow as Chromium's windows get.
    for (scheme, width) in [("0", 1280), ("1", 500)] {
        let (dom, complaints) = open(browser, &directory.path().join("measured.html"), scheme, width);
        assert!(complaints.is_empty(), "{complaints:?}");
        for chart in [
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
        ] {
            assert!(dom.contains(chart), "{chart} is not on the page");
        }
        let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).unwrap().0;
        let (needs, has) = title.split_once(" of ").unwrap();
        assert!(needs.parse::<usize>().unwrap() <= has.parse().unwrap(), "scrolls sideways: {title}");
        assert!(has.parse::<usize>().unwrap() <= width, "{title}");
    }
}
