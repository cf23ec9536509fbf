//! Regression on a device with a cache: extra runs have to be as cold as the runs of the program.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::ops::ControlFlow;

use joulewise_profiler::ballast::{Ballast, Cache};
use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::MeteredDevice;
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::report::json::{ClassRow, PhaseProfile};
use joulewise_profiler::sensor::simulated::SimulatedDevice;

use simulation::{DECODER, SimulatedWorkload, exact_meter};

/// What of the program stays in the device's cache: from 900 kB on everything is cold.
const CACHE_BYTES: f64 = 600e3;

fn measure(caches: &[Cache]) -> PhaseProfile {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), 5.0);
    let meter = exact_meter(&clock, &device);
    let mut protocol = Protocol::default();
    protocol.bootstrap_draws = 100;
    let mut workload = SimulatedWorkload::of(&device, DECODER).caching(CACHE_BYTES, caches);
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn ratio(phase: &PhaseProfile) -> f64 {
    phase.closure.regression.as_ref().unwrap().ratio.unwrap()
}

/// The largest error of a class, as a share of the whole program.
fn worst_error(phase: &PhaseProfile) -> f64 {
    let cold_j = |path: &str| {
        let (.., duration_s, power_w) = DECODER.iter().find(|module| module.0 == path).unwrap();
        duration_s * power_w
    };
    let whole_j: f64 = DECODER.iter().map(|module| cold_j(module.0)).sum();
    let error = |class: &ClassRow| {
        let of_class: Vec<_> = phase.modules.iter().filter(|row| class.modules.contains(&row.id)).collect();
        let truth_j: f64 = of_class.iter().map(|row| cold_j(&row.path)).sum();
        let by_regression_j = class.energy.as_ref().unwrap().energy_j.unwrap() * of_class.len() as f64;
        (by_regression_j - truth_j).abs() / whole_j
    };
    phase.classes.iter().map(error).fold(0.0, f64::max)
}

#[test]
fn by_themselves_classes_are_warmer_than_in_the_program() {
    let phase = measure(&[]);
    assert!(phase.classes.iter().all(|class| class.ballast == Ballast::None));
    // A class of 400 kB comes round after two thirds of the cache, so that a sixth of it is cold: 0.4 + 0.6 / 6 of what
    // it takes in the program. The first sweep behind the program is colder, which is at most one of two.
    let ratio = ratio(&phase);
    assert!((0.5..0.75).contains(&ratio), "{ratio}");
    assert!(worst_error(&phase) > 0.05);
}

#[test]
fn with_ballast_they_are_as_cold() {
    let own = |size_bytes| Cache { size_bytes, is_shared: false };
    let shared = Cache { size_bytes: 10_000_000, is_shared: true };
    for (caches, ballast) in [
        (vec![own(CACHE_BYTES as u64)], [Ballast::Part; 5]),
        // One that holds all of it, if others left it alone, which they do not.
        (vec![own(10_000), shared], [Ballast::Part; 5]),
    ] {
        let phase = measure(&caches);
        assert_eq!(phase.classes.iter().map(|class| class.ballast).collect::<Vec<_>>(), ballast);
        // Where sweeps follow the program, weights of a few modules (100 kB each of 1.7 MB) come round before 1.5 times the
        // cache has been read, a part of them warm.
        assert!((ratio(&phase) - 1.0).abs() < 0.01, "{}", ratio(&phase));
        assert!(worst_error(&phase) < 0.01, "{}", worst_error(&phase));
        let additivity = phase.regression.unwrap().additivity.unwrap();
        assert!(additivity.mean_absolute_error < 0.02, "{additivity:?}");
    }
}
