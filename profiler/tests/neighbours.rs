//! Regression on a device that begins a module before its like in front of it has ended, as launches of one kernel do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::ops::ControlFlow;

use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::MeteredDevice;
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::sensor::simulated::SimulatedDevice;

use simulation::{DECODER, SimulatedWorkload, exact_meter};

/// What the modules account for.
fn closure(metered: MeteredDevice) -> f64 {
    let clock = SimulatedClock::new();
    let device = SimulatedDevice::on(clock.clone(), 5.0);
    let meter = exact_meter(&clock, &device);
    let mut protocol = Protocol::default();
    protocol.bootstrap_draws = 100;
    let mut workload = SimulatedWorkload::of(&device, DECODER).overlapping(0.2e-3);
    let setup = Setup { meter: &meter, device: metered, work: None, protocol: &protocol };
    let phase = profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(())).unwrap();
    phase.closure.regression.unwrap().ratio.unwrap()
}

#[test]
fn classes_are_swept_behind_others_where_work_overlaps() {
    // Where nothing is known to overlap, each class of four goes round by itself, a fifth of each run hidden.
    let alone = closure(MeteredDevice::Cpu);
    assert!(alone < 0.85, "{alone}");
    // In company only the head still does, which stands alone in the program: 0.2 ms of 40 W, 8 of 960 mJ. Sweeps begin
    // behind the last of the program, whose like may come first.
    let in_company = closure(MeteredDevice::Gpu { index: 0 });
    assert!((in_company - (1.0 - 8.0 / 960.0)).abs() < 0.005, "{in_company}");
}
