//! What the sensors of a machine are worth: the self-test behind `sensor.json`.
//!
//! Each sensor is watched (how often does it change, in which steps, how long does an answer take), held against the
//! others at rest and under load, and put to the square-wave test: a load that is on for half of each period must read
//! as half of its power whatever the wave's phase. A counter that integrates continuously does so at every period; one
//! that looks only at a part of each update period reads anything from nothing to all at its own period, and every
//! figure from it then needs windows with random phase.
//!
//! After Yang et al., Part-time power measurements (SC 2024), and their good practice.

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::energy::EnergyReading;
use crate::meter::EnergyMeter;
use crate::sensor::SensorKind;
use crate::sensor::self_test::SelfTest;
use crate::statistics::Summary;

/// Periods of the square wave.
pub const WAVE_PERIODS_S: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.8];
/// Phases at the period that the sensor itself has, and at the others.
const PHASES: (usize, usize) = (8, 3);
/// Relative standard deviation over the phases below which a counter integrates continuously, and above which it
/// certainly does not. One that sees a quarter of the time scatters by 70 % at its own period; windows that hold a
/// broken number of periods scatter by a few per cent.
const INTEGRATES_BELOW: f64 = 0.05;
const SAMPLES_ABOVE: f64 = 0.15;

/// Result of the self-test of a machine's sensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// When, in seconds since 1970 (UTC).
    pub created_unix_s: f64,
    /// What made the load.
    pub load: String,
    /// One row per sensor.
    pub sensors: Vec<Examined>,
}

/// Result for one sensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// Its name.
    pub name: String,
    /// `energy-counter` or `power`.
    pub kind: String,
    /// What it covers.
    pub scope: String,
    /// Median time between two changes.
    pub update_period_s: Option<f64>,
    /// Median time of one reading.
    pub latency_s: f64,
    /// Smallest change, in its own unit (joules or watts).
    pub smallest_step: Option<f64>,
    /// Mean power at rest.
    pub idle_power_w: Option<f64>,
    /// Mean power under steady load.
    pub load_power_w: Option<f64>,
    /// Mean power under the square wave, by period.
    pub waves: Vec<Wave>,
    /// Whether it integrates continuously; `None` where that cannot be told, as when the load did not change its power.
    pub integrates_continuously: Option<bool>,
    /// Its power over that of other sensors of the same scope.
    pub agreement: Vec<Agreement>,
}

impl Examined {
    /// What the square wave at its own period told, in a word or two.
    pub fn verdict(&self) -> &'static str {
        match self.integrates_continuously {
            Some(true) => "continuously",
            Some(false) => "only a part of the time",
            None if self.kind == "power" => "power only",
            None => "cannot be told",
        }
    }
}

/// A square wave of one period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wave {
    /// Period; on for its first half.
    pub period_s: f64,
    /// Mean power by phase; `null` where unresolved.
    pub powers_w: Vec<Option<f64>>,
    /// Standard deviation over the phases, relative to the difference that the load makes.
    pub scatter: Option<f64>,
}

/// How two sensors of one scope agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The other sensor.
    pub with: String,
    /// Power over its power, at rest.
    pub idle_ratio: Option<f64>,
    /// The same under load.
    pub load_ratio: Option<f64>,
}

/// Keeps the device busy until a moment on the meter's clock.
pub type Load<'a> = &'a mut dyn FnMut(f64);

/// Puts all sensors of a meter to the test. `watched` is what watching each of them showed, in the meter's order;
/// `on_step` is told how many of how many steps are done.
pub fn examine(
    meter: &EnergyMeter,
    watched: &[Option<SelfTest>],
    load_name: &str,
    load: Load<'_>,
    on_step: &mut dyn FnMut(usize, usize),
) -> Examination {
    let clock = meter.clock();
    let slowest_s = meter.sensors().iter().map(|info| info.update_period_s).fold(0.0, f64::max);
    let window_s = (20.0 * slowest_s).clamp(0.5, 4.0);
    let own_s = own_period_s(meter, watched);
    let periods: Vec<f64> = match own_s {
        Some(own_s) if !WAVE_PERIODS_S.iter().any(|period_s| is_near(*period_s, own_s)) => {
            WAVE_PERIODS_S.iter().copied().chain([own_s]).collect()
        }
        _ => WAVE_PERIODS_S.to_vec(),
    };
    let phases =
        |period_s: f64| if own_s.is_some_and(|own_s| is_near(period_s, own_s)) { PHASES.0 } else { PHASES.1 };
    let total = 2 + periods.iter().map(|&period_s| phases(period_s)).sum::<usize>();
    let mut done = 0;
    let mut step = |done: &mut usize| {
        *done += 1;
        on_step(*done, total);
    };
    // What was before is forgotten after two updates.
    let settle_s = 2.0 * slowest_s;
    clock.wait_until(clock.now_s() + settle_s);
    let idle = measured(meter, window_s, &mut |until_s| clock.wait_until(until_s));
    step(&mut done);
    load(clock.now_s() + settle_s);
    let busy = measured(meter, window_s, load);
    step(&mut done);
    let mut waves = Vec::new();
    for &period_s in &periods {
        let mut by_phase = Vec::new();
        for phase in 0..phases(period_s) {
            // Windows hold whole periods, and phases are those against the sensor's own updates.
            let reference_s = own_s.unwrap_or(period_s);
            let offset_s = reference_s * phase as f64 / phases(period_s) as f64;
            let start_s = ((clock.now_s() + settle_s) / reference_s).ceil() * reference_s + offset_s;
            let n_periods = (window_s / period_s).ceil().max(3.0);
            wave(meter, start_s - settle_s, start_s, period_s, load);
            let readings = measured(meter, n_periods * period_s, &mut |until_s| {
                wave(meter, start_s, until_s, period_s, load);
            });
            by_phase.push(readings);
            step(&mut done);
        }
        waves.push((period_s, by_phase));
    }
    let power = |readings: &[EnergyReading], sensor: usize| readings[sensor].power_w();
    let sensors = meter.sensors().iter().enumerate().map(|(sensor, info)| {
        let (idle_w, load_w) = (power(&idle, sensor), power(&busy, sensor));
        // A load that changes the power by less than a tenth tells nothing of how the sensor sees waves.
        let swing_w = idle_w.zip(load_w).map(|(idle_w, load_w)| load_w - idle_w);
        let swing_w =
            swing_w.zip(load_w).filter(|(swing_w, load_w)| *swing_w > 0.1 * load_w).map(|pair| pair.0);
        let waves: Vec<Wave> = waves
            .iter()
            .map(|(period_s, by_phase)| {
                let powers_w: Vec<Option<f64>> =
                    by_phase.iter().map(|readings| power(readings, sensor)).collect();
                let known: Option<Vec<f64>> = powers_w.iter().copied().collect();
                let sd_w = known.and_then(|known| Summary::of(&known).standard_deviation);
                Wave {
                    period_s: *period_s,
                    powers_w,
                    scatter: sd_w.zip(swing_w).map(|(sd_w, swing_w)| sd_w / swing_w),
                }
            })
            .collect();
        let own = waves.iter().find(|wave| own_s.is_some_and(|own_s| is_near(wave.period_s, own_s)));
        let scatter = own.and_then(|wave| wave.scatter).filter(|_| info.kind == SensorKind::EnergyCounter);
        let others = meter.sensors().iter().enumerate();
        let same_scope =
            others.filter(|(other, other_info)| *other != sensor && other_info.scope == info.scope);
        let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b.filter(|b| *b > 0.0)).map(|(a, b)| a / b);
        let watched = watched.get(sensor).and_then(Option::as_ref);
        Examined {
            name: info.name.clone(),
            kind: match info.kind {
                SensorKind::EnergyCounter => "energy-counter".to_owned(),
                SensorKind::Power => "power".to_owned(),
            },
            scope: info.scope.to_string(),
            update_period_s: watched.and_then(|watched| watched.update_period_s),
            latency_s: watched.map_or(0.0, |watched| watched.latency_s),
            smallest_step: watched.and_then(|watched| watched.smallest_step),
            idle_power_w: idle_w,
            load_power_w: load_w,
            integrates_continuously: match scatter {
                Some(scatter) if scatter < INTEGRATES_BELOW => Some(true),
                Some(scatter) if scatter > SAMPLES_ABOVE => Some(false),
                _ => None,
            },
            waves,
            agreement: same_scope
                .map(|(other, info)| Agreement {
                    with: info.name.clone(),
                    idle_ratio: ratio(idle_w, power(&idle, other)),
                    load_ratio: ratio(load_w, power(&busy, other)),
                })
                .collect(),
        }
    });
    Examination {
        created_unix_s: clock::to_unix_s(clock.now_s()),
        load: load_name.to_owned(),
        sensors: sensors.collect(),
    }
}

/// The update period of the slowest counter, at which sub-sampling would show.
fn own_period_s(meter: &EnergyMeter, watched: &[Option<SelfTest>]) -> Option<f64> {
    let counters =
        meter.sensors().iter().zip(watched).filter(|(info, _)| info.kind == SensorKind::EnergyCounter);
    let periods = counters.map(|(info, watched)| {
        watched.as_ref().and_then(|watched| watched.update_period_s).unwrap_or(info.update_period_s)
    });
    // No load can be switched on and off within a few milliseconds.
    periods.filter(|period_s| *period_s >= 0.01).reduce(f64::max)
}

/// Whether two periods are the same to the precision of watching one.
fn is_near(a_s: f64, b_s: f64) -> bool {
    (a_s / b_s - 1.0).abs() < 0.1
}

fn measured(meter: &EnergyMeter, duration_s: f64, run: &mut dyn FnMut(f64)) -> Vec<EnergyReading> {
    let window = meter.begin();
    run(meter.clock().now_s() + duration_s);
    meter.end(window).readings
}

/// On for the first half of each period counted from `origin_s`, from now on until `until_s`.
fn wave(meter: &EnergyMeter, origin_s: f64, until_s: f64, period_s: f64, load: Load<'_>) {
    let clock = meter.clock();
    clock.wait_until(origin_s.min(until_s));
    loop {
        let now_s = clock.now_s();
        if now_s >= until_s {
            return;
        }
        let turns = ((now_s - origin_s) / period_s + 1e-9).floor();
        let (middle_s, end_s) = (origin_s + (turns + 0.5) * period_s, origin_s + (turns + 1.0) * period_s);
        if now_s < middle_s - 1e-9 {
            load(middle_s.min(until_s));
        }
        // Rounding must not leave the clock a hair before the end, or the next turn would be this one again.
        clock.wait_until(end_s.min(until_s).max(now_s + 1e-6));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SimulatedClock};
    use crate::sensor::Sensor;
    use crate::sensor::simulated::{SimulatedDevice, SimulatedSensor};

    /// 100 W at rest, 500 W under load, in simulated time.
    fn examined(sensors: impl FnOnce(&SimulatedDevice) -> Vec<SimulatedSensor>) -> Examination {
        let clock = SimulatedClock::new();
        let device = SimulatedDevice::on(clock.clone(), 100.0);
        let sensors: Vec<Box<dyn Sensor>> =
            sensors(&device).into_iter().map(|sensor| Box::new(sensor) as Box<dyn Sensor>).collect();
        let watched: Vec<Option<SelfTest>> = sensors.iter().map(|_| None).collect();
        let meter = EnergyMeter::simulated(&clock, sensors);
        let mut load = |until_s: f64| {
            device.set_power_w(500.0);
            clock.wait_until(until_s);
            device.set_power_w(100.0);
        };
        let mut steps = Vec::new();
        let examination =
            examine(&meter, &watched, "simulated", &mut load, &mut |done, total| steps.push((done, total)));
        assert_eq!(steps.last().map(|(done, total)| done == total), Some(true));
        examination
    }

    #[test]
    fn a_counter_that_integrates_reads_half_the_power_at_every_phase() {
        let examination = examined(|device| {
            vec![
                SimulatedSensor::counter(device, 0.1),
                SimulatedSensor::power(device, 0.1).named("power", 0.05),
            ]
        });
        let [counter, power] = &examination.sensors[..] else { panic!("two sensors were examined") };
        assert_eq!(counter.integrates_continuously, Some(true), "{counter:?}");
        assert_eq!(power.integrates_continuously, None, "only counters integrate");
        let own = counter.waves.iter().find(|wave| wave.period_s == 0.1).unwrap();
        assert_eq!(own.powers_w.len(), PHASES.0);
        for power_w in own.powers_w.iter().flatten() {
            // Half of 100 W and half of 500 W; ends of windows are known to 2.5 ms of 2 s each.
            assert!((power_w / 300.0 - 1.0).abs() < 0.01, "{power_w} W");
        }
        // Power sampled in step with the load sees one of its states at each phase.
        let aliased = power.waves.iter().find(|wave| wave.period_s == 0.1).unwrap();
        assert!(aliased.scatter.unwrap() > 0.3, "{aliased:?}");
        assert!(
            (counter.idle_power_w.unwrap() - 100.0).abs() < 1.0
                && (counter.load_power_w.unwrap() - 500.0).abs() < 5.0
        );
        assert!((counter.agreement[0].load_ratio.unwrap() - 1.0).abs() < 0.01);
    }

    #[test]
    fn a_counter_that_looks_at_a_quarter_of_the_time_is_found_out() {
        let examination = examined(|device| vec![SimulatedSensor::counter(device, 0.1).seeing(0.25)]);
        assert_eq!(examination.sensors[0].integrates_continuously, Some(false), "{examination:?}");
        // Steady loads do not show it.
        assert!((examination.sensors[0].load_power_w.unwrap() - 500.0).abs() < 5.0);
    }

    #[test]
    fn a_load_that_changes_nothing_tells_nothing() {
        let clock = SimulatedClock::new();
        let device = SimulatedDevice::on(clock.clone(), 100.0);
        let meter = EnergyMeter::simulated(&clock, vec![Box::new(SimulatedSensor::counter(&device, 0.1))]);
        let examination =
            examine(&meter, &[None], "none", &mut |until_s| clock.wait_until(until_s), &mut |_, _| {});
        assert_eq!(examination.sensors[0].integrates_continuously, None);
    }
}
