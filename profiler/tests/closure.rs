//! Attribution on a device whose joules per module are known.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "each test program uses its own part of the simulation")]
mod simulation;

use std::ops::ControlFlow;
use std::sync::OnceLock;

use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::energy::Provenance;
use joulewise_profiler::experiment::Protocol;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::profile::{Setup, profile};
use joulewise_profiler::report::json::{Attribution, ModuleRow, PhaseProfile};
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};

use simulation::{IDLE_W, MODULES, SimulatedWorkload, WHOLE_J, WHOLE_S};

/// Length of every window.
const WINDOW_S: f64 = 0.12;
/// Period of the counter: each end of a window is known to it.
const PERIOD_S: f64 = 0.5e-3;

fn protocol() -> Protocol {
    let mut protocol = Protocol::quick();
    protocol.trials = 3;
    // Regression has tests of its own.
    protocol.regression = false;
    protocol.min_window_s = WINDOW_S;
    protocol.replay_trials = 2;
    protocol.replay_min_window_s = WINDOW_S;
    protocol.idle_s = 0.1;
    protocol.warm_up_limit_s = 0.05;
    protocol
}

fn measure(sensor: SimulatedSensor, device: &SimulatedDevice, protocol: &Protocol) -> PhaseProfile {
    let meter = EnergyMeter::start(vec![Box::new(sensor)]);
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol };
    profile(&mut SimulatedWorkload::new(device), &setup, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// One measurement by the default of these tests, for all that only look at it, in simulated time: what a busy machine
/// oversleeps is no joules of a module's.
fn measured() -> &'static PhaseProfile {
    static PHASE: OnceLock<PhaseProfile> = OnceLock::new();
    PHASE.get_or_init(|| {
        let clock = SimulatedClock::new();
        let device = SimulatedDevice::on(clock.clone(), IDLE_W);
        let sensor = SimulatedSensor::counter(&device, PERIOD_S).named("truth", 0.05);
        let meter = EnergyMeter::simulated(&clock, vec![Box::new(sensor)]);
        let protocol = protocol();
        let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
        profile(&mut SimulatedWorkload::new(&device), &setup, &mut |_| ControlFlow::Continue(())).unwrap()
    })
}

fn module<'a>(phase: &'a PhaseProfile, path: &str) -> &'a ModuleRow {
    phase.modules.iter().find(|row| row.path == path).unwrap()
}

/// What a window of known energy may be off by: the counter's period at both ends at the highest power.
fn tolerance(power_w: f64) -> f64 {
    2.0 * PERIOD_S * power_w.max(IDLE_W) / WINDOW_S
}

#[test]
fn replay_finds_each_modules_own_joules_and_closes_on_the_whole() {
    let phase = measured();
    assert!(phase.is_complete);
    for (path, .., duration_s, power_w) in MODULES {
        let row = module(phase, path);
        let replay = row.replay.as_ref().unwrap();
        let energy_j = replay.energy_j.unwrap();
        assert!(
            (energy_j - power_w * duration_s).abs() <= tolerance(*power_w) * duration_s,
            "{path}: {replay:?}"
        );
        assert_eq!((replay.provenance, replay.n, row.is_replayed), (Provenance::Measured, 2, true));
        assert!((replay.systematic_j - 0.05 * energy_j).abs() < 1e-12);
        assert!((row.replay_time.unwrap().duration_s - duration_s).abs() < 1e-9);
    }
    let whole_j = phase.whole.energy.energy_j.unwrap();
    assert!((whole_j - WHOLE_J).abs() <= tolerance(60.0) * WHOLE_S, "{whole_j} J");
    let closure = phase.closure.replay.as_ref().unwrap();
    // Sum and whole are each right to the tolerance of the strongest module.
    let relative = 2.0 * tolerance(60.0) * WHOLE_S / WHOLE_J;
    assert!((closure.ratio.unwrap() - 1.0).abs() <= relative, "{closure:?}");
    assert_eq!(phase.attribution, Attribution::Replay);
    let rest_j = closure.unattributed.energy_j.unwrap();
    assert!((rest_j - (whole_j - closure.sum.energy_j.unwrap())).abs() < 1e-12);
}

#[test]
fn first_order_shares_out_by_time_and_so_misses_differences_in_power() {
    let device = SimulatedDevice::new(IDLE_W);
    let mut protocol = protocol();
    protocol.replay_trials = 0;
    let phase = measure(SimulatedSensor::counter(&device, PERIOD_S), &device, &protocol);
    assert_eq!(phase.attribution, Attribution::FirstOrder);
    assert!(phase.closure.replay.is_none() && phase.modules.iter().all(|row| row.replay.is_none()));
    let of = |path| module(&phase, path).first_order.energy_j.unwrap();
    // A mlp takes twice the time of a head, and by time twice the joules; in truth it takes three times as many.
    assert!((of("layer.0.mlp") / of("head") - 2.0).abs() < 1e-9);
    // Exactly the formula: mean over the observed windows of joules / seconds, times the module's time.
    let observed: Vec<_> = phase.windows.iter().filter(|window| window.target == "observed").collect();
    assert_eq!(observed.len(), 3);
    let power_w =
        observed.iter().map(|window| window.energy_j.unwrap() / window.duration_s).sum::<f64>() / 3.0;
    assert!((of("head") - power_w * 1e-3).abs() < 1e-9);
    assert_eq!(module(&phase, "head").first_order.provenance, Provenance::Derived);
    // Time closes exactly, since the device takes the same time cut or not.
    assert!((phase.closure.time.ratio - 1.0).abs() < 1e-6, "{:?}", phase.closure.time);
    let shares: f64 = phase.modules.iter().map(|row| row.time_share).sum();
    assert!((shares - 1.0).abs() < 1e-12);
}

#[test]
fn layers_and_kinds_are_sums_of_their_modules() {
    let phase = measured();
    let names: Vec<_> = phase.layers.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["before the layers", "layer 0", "layer 1", "layer 2", "layer 3", "behind the layers"]);
    for groups in [&phase.layers, &phase.kinds] {
        for method in [Attribution::FirstOrder, Attribution::Replay] {
            let groups_j: f64 = groups.iter().map(|row| row.energy(method).energy_j.unwrap()).sum();
            let modules_j: f64 = phase.modules.iter().map(|row| row.energy(method).energy_j.unwrap()).sum();
            // The same terms in another order.
            assert!((groups_j / modules_j - 1.0).abs() < 1e-12);
        }
        assert_eq!(groups.iter().map(|row| row.n_modules).sum::<usize>(), MODULES.len());
    }
}

#[test]
fn what_an_idle_machine_draws_is_taken_off_the_dynamic_energy() {
    let phase = measured();
    // 100 ms at 1 W, each end known to the period.
    let idle_w = phase.whole.idle_power_w.unwrap();
    assert!((idle_w - IDLE_W).abs() <= 2.0 * PERIOD_S / 0.1 * IDLE_W, "{idle_w} W");
    let dynamic_j = phase.whole.energy.energy_j.unwrap() - phase.whole.dynamic_energy.energy_j.unwrap();
    // The idle machine for as long as a window of n iterations, per iteration: at least the device's own time.
    let expected_j = 0.97 * IDLE_W * WHOLE_S..=2.0 * IDLE_W * WHOLE_S;
    assert!(expected_j.contains(&dynamic_j), "{dynamic_j} J");
}

#[test]
fn windows_that_a_slow_sensor_cannot_see_are_unresolved_and_never_zero() {
    let device = SimulatedDevice::new(IDLE_W);
    let mut protocol = protocol();
    // The classic protocol asks for a number of iterations, not for windows that the sensor can resolve.
    protocol.iterations = Some(2);
    protocol.idle_s = 0.0;
    let phase = measure(SimulatedSensor::counter(&device, 5.0), &device, &protocol);
    assert_eq!(phase.whole.iterations, 2);
    assert_eq!((phase.whole.energy.energy_j, phase.whole.energy.provenance), (None, Provenance::Unresolved));
    assert_eq!(phase.attribution, Attribution::FirstOrder);
    for row in &phase.modules {
        assert_eq!(row.first_order.energy_j, None);
        assert_eq!(row.replay.as_ref().unwrap().energy_j, None);
        assert!(row.time.duration_s > 0.0, "time needs no energy sensor");
    }
    assert_eq!(phase.closure.first_order.ratio, None);
    assert_eq!(phase.metrics[0].value, None);
}

#[test]
fn a_sensor_that_dies_half_way_takes_the_energies_with_it_and_nothing_else() {
    let device = SimulatedDevice::new(IDLE_W);
    let dies_at_s = joulewise_profiler::clock::now_s() + 0.8;
    let phase =
        measure(SimulatedSensor::counter(&device, PERIOD_S).dying_at(dies_at_s), &device, &protocol());
    assert!(phase.is_complete);
    assert_eq!(phase.whole.energy.energy_j, None);
    assert!(phase.notes.iter().any(|note| note.contains("it died")), "{:?}", phase.notes);
    // The windows before its death keep their energies.
    let known = phase.windows.iter().filter(|window| window.energy_j.is_some()).count();
    assert!(known >= 2 && known < phase.windows.len(), "{known} of {}", phase.windows.len());
}

#[test]
fn an_interrupted_measurement_keeps_what_it_had() {
    let device = SimulatedDevice::new(IDLE_W);
    let meter = EnergyMeter::start(vec![Box::new(SimulatedSensor::counter(&device, PERIOD_S))]);
    let protocol = protocol();
    let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
    let mut partial = None;
    let phase = profile(&mut SimulatedWorkload::new(&device), &setup, &mut |update| {
        partial = Some(update.phase());
        if update.progress.done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert!(!phase.is_complete);
    // The idle window and four trials.
    assert_eq!(phase.windows.len(), 5);
    assert_eq!(partial.unwrap().windows.len(), 5);
}

#[test]
fn when_time_is_short_equal_modules_stand_for_each_other() {
    let device = SimulatedDevice::new(IDLE_W);
    let mut protocol = protocol();
    protocol.replay_limit_s = 0.1;
    let phase = measure(SimulatedSensor::counter(&device, PERIOD_S), &device, &protocol);
    // Of four equal modules the first, the third and the last are replayed; the second has their mean.
    for kind in ["attn", "mlp"] {
        let of = |layer: u32| module(&phase, &format!("layer.{layer}.{kind}")).clone();
        assert_eq!([0, 1, 2, 3].map(|layer| of(layer).is_replayed), [true, false, true, true]);
        let energy_j = |layer| of(layer).replay.unwrap().energy_j.unwrap();
        let mean_j = (energy_j(0) + energy_j(2) + energy_j(3)) / 3.0;
        assert!((energy_j(1) / mean_j - 1.0).abs() < 1e-12);
        let stand_in = of(1).replay.unwrap();
        assert_eq!((stand_in.provenance, stand_in.n), (Provenance::Derived, 6));
    }
    assert!(
        phase.notes.iter().any(|note| note.starts_with("8 of 10 modules were replayed")),
        "{:?}",
        phase.notes
    );
}
