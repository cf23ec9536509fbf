//! What is written of a profile: JSON that reads back, a page without strangers, a trace and a table that add up.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::report::json::{ModelSummary, Profile};
use joulewise_profiler::report::{self, html, table, trace};
use joulewise_profiler::sensor::Sensor;
use joulewise_profiler::sensor::estimator::Estimator;
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};
use serde_json::Value;

use simulation::{IDLE_W, MODULES, SimulatedWorkload};

/// A profile of one model whose name needs escaping, measured with a sensor.
fn profiled(sensor: Box<dyn Sensor>, device: &SimulatedDevice) -> Profile {
    let mut protocol = Protocol::quick();
    protocol.min_window_s = 0.05;
    protocol.replay_min_window_s = 0.02;
    protocol.idle_s = 0.05;
    protocol.warm_up_limit_s = 0.05;
    let meter = EnergyMeter::start(vec![sensor]);
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut result = Profile::new(&meter, MeteredDevice::Cpu, protocol.clone());
    let model = ModelSummary { name: "<model> & co".to_owned(), n_layers: 4, ..ModelSummary::default() };
    result.add_model(model, "simulated device");
    let mut workload = SimulatedWorkload::new(device);
    result.put_phase(profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap());
    result
}

/// One measured profile for all tests.
fn measured() -> &'static Profile {
    static PROFILE: OnceLock<Profile> = OnceLock::new();
    PROFILE.get_or_init(|| {
        let device = SimulatedDevice::new(IDLE_W);
        let sensor = SimulatedSensor::counter(&device, 1e-3).named("truth", 0.05);
        profiled(Box::new(sensor), &device)
    })
}

/// One whose sensor is too slow to see anything.
fn unresolved() -> &'static Profile {
    static PROFILE: OnceLock<Profile> = OnceLock::new();
    PROFILE.get_or_init(|| {
        let device = SimulatedDevice::new(IDLE_W);
        let mut sensor = SimulatedSensor::counter(&device, 1e-3);
        // It dies before the first window.
        let _ = sensor.read_at(0.0);
        profiled(Box::new(sensor.dying_at(0.0)), &device)
    })
}

fn json_of(profile: &Profile) -> Value {
    let mut bytes = Vec::new();
    profile.write_json(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn json_reads_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    for profile in [measured(), unresolved()] {
        let files = report::write(directory.path(), profile).unwrap();
        assert_eq!(files.len(), report::FILES.len());
        let again = Profile::read_json(&files[0]).unwrap();
        assert_eq!(json_of(&again), json_of(profile));
    }
    // Nothing unfinished is left behind.
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), report::FILES.len(), "{names:?}");
}

#[test]
fn json_says_its_version_and_refuses_others() {
    let document = json_of(measured());
    assert_eq!((&document["schema"], &document["schema_version"]), (&"joulewise-profile".into(), &1.into()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile.json");
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        Profile::read_json(&path).unwrap_err().to_string()
    };
    assert!(refused("{\"schema\": \"joulewise-profile\", \"schema_version\": 2}").contains("version 2"));
    assert!(refused("{\n]").contains("profile.json:2:"));
    assert!(refused("{}").contains("expected schema joulewise-profile"));
    assert!(Profile::read_json(Path::new("/nonexistent/profile.json")).is_err());
}

#[test]
fn every_energy_carries_sensor_scope_provenance_and_both_uncertainties() {
    fn check(value: &Value, n_energies: &mut usize) {
        match value {
            Value::Object(fields) => {
                if fields.contains_key("energy_j") && !fields.contains_key("start_unix_s") {
                    *n_energies += 1;
                    for field in
                        ["ci95_j", "n", "systematic_j", "provenance", "sensor", "scope", "upper_bound_j"]
                    {
                        assert!(fields.contains_key(field), "{field} is missing in {value}");
                    }
                    assert_ne!(fields["energy_j"], 0.0, "an unresolved energy is null");
                }
                fields.values().for_each(|value| check(value, n_energies));
            }
            Value::Array(values) => values.iter().for_each(|value| check(value, n_energies)),
            _ => {}
        }
    }
    for profile in [measured(), unresolved()] {
        let mut n_energies = 0;
        check(&json_of(profile), &mut n_energies);
        // At least the two attributions of every module, and the whole.
        assert!(n_energies > 2 * MODULES.len(), "{n_energies}");
    }
}

#[test]
fn the_csv_has_a_row_per_module_and_closes() {
    let mut bytes = Vec::new();
    report::csv::write(measured(), &mut bytes).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|other| other == name).unwrap();
    let (module, energy_j, model) = (column("module"), column("energy_j"), column("model"));
    let rows: Vec<_> = reader.records().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), MODULES.len() + 2);
    assert!(rows.iter().all(|row| &row[model] == "<model> & co"));
    let energy = |row: &csv::StringRecord| row[energy_j].parse::<f64>().unwrap();
    let sum_j: f64 = rows[..MODULES.len()].iter().map(energy).sum();
    let last = |name: &str| energy(rows.iter().find(|row| &row[module] == name).unwrap());
    // The same sums in the same order, next to rounding.
    assert!((sum_j + last("(unattributed)") - last("(whole)")).abs() < 1e-12);

    let mut bytes = Vec::new();
    report::csv::write(unresolved(), &mut bytes).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    assert!(reader.records().all(|row| row.unwrap()[energy_j].is_empty()));
}

#[test]
fn the_trace_is_what_perfetto_opens() {
    let mut bytes = Vec::new();
    trace::write(measured(), &mut bytes).unwrap();
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let events = document["traceEvents"].as_array().unwrap();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == *phase).collect::<Vec<_>>();
    for slice in of("X") {
        assert!(slice["ts"].as_f64().unwrap() >= 0.0 && slice["dur"].as_f64().unwrap() > 0.0, "{slice}");
        assert!(slice["pid"].is_u64() && slice["tid"].is_u64() && slice["name"].is_string());
    }
    let modules: Vec<_> = of("X").into_iter().filter(|slice| slice["tid"] == 1).collect();
    assert_eq!(modules.len(), MODULES.len());
    // Microseconds, one behind the other.
    assert!((modules[1]["ts"].as_f64().unwrap() - 500.0).abs() < 1e-6);
    assert!(modules.iter().all(|slice| slice["args"]["energy_j"].as_f64().unwrap() > 0.0));
    assert!(of("C").iter().all(|counter| counter["args"]["W"].as_f64().unwrap() >= 0.0));
    assert!(!of("C").is_empty() && of("M").len() == 4);
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_escapes_what_is_not_its_own() {
    for profile in [measured(), unresolved()] {
        let page = html::render(profile).unwrap();
        for stranger in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(stranger), "the page fetches something: {stranger}");
        }
        assert!(page.contains("&lt;model&gt; &amp; co") && !page.contains("<model>"));
        let no_number = page.find("NaN").or_else(|| page.find("inf%"));
        assert_eq!(no_number.map(|at| &page[at.saturating_sub(80)..at + 10]), None);
        for (path, ..) in MODULES {
            assert!(page.contains(path), "{path} is missing");
        }
    }
}

#[test]
fn the_page_shows_provenance_beside_the_figures() {
    let page = html::render(measured()).unwrap();
    assert!(page.contains("badge measured") && !page.contains("Estimated, not measured."));
    let device = SimulatedDevice::new(IDLE_W);
    let estimated = profiled(Box::new(Estimator::of_this_cpu()), &device);
    let page = html::render(&estimated).unwrap();
    assert!(page.contains("Estimated, not measured.") && page.contains("badge estimated"));
    let page = html::render(unresolved()).unwrap();
    assert!(page.contains("badge unresolved"));
}

#[test]
fn tables_end_with_the_closure() {
    let (_, phase) = measured().phases().next().unwrap();
    for table in [table::modules(phase), table::layers(phase), table::kinds(phase)] {
        assert!(table.rows.iter().all(|row| row.len() == table.header.len()));
        let names: Vec<_> = table.rows.iter().rev().take(3).map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["whole, measured apart", "unattributed", "sum of the rows"]);
        let markdown = table.markdown();
        let columns: Vec<_> = markdown.lines().map(|line| line.matches('|').count()).collect();
        assert!(columns.iter().all(|n| *n == table.header.len() + 1));
    }
    assert!(table::closure(phase).contains("energy by replay"));
}
