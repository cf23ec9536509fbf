//! A sensor whose truth is known: a device that draws what it is told to, seen through a counter or a power register
//! with any of the faults of real ones. Tests of everything above sensors stand on it.

use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::{Reading, Scope, Sensor, SensorInfo, SensorKind};
use crate::clock::{Clock, WallClock};
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

/// A device whose power is set by whoever simulates its work.
#[derive(Clone)]
pub struct SimulatedDevice {
    clock: Arc<dyn Clock>,
    /// What it has done, each stretch with the energy used before it.
    stretches: Arc<Mutex<Vec<Stretch>>>,
}

#[derive(Clone, Debug)]
struct Stretch {
    start_s: f64,
    before_j: f64,
    /// Seconds and watts, over and over.
    pattern: Arc<[(f64, f64)]>,
    period_s: f64,
    period_j: f64,
}

impl Stretch {
    fn new(start_s: f64, before_j: f64, pattern: &[(f64, f64)]) -> Self {
        Stretch {
            start_s,
            before_j,
            period_s: pattern.iter().map(|(duration_s, _)| duration_s).sum(),
            period_j: pattern.iter().map(|(duration_s, power_w)| duration_s * power_w).sum(),
            pattern: pattern.into(),
        }
    }

    /// Energy since the time 0, and power.
    fn at(&self, time_s: f64) -> (f64, f64) {
        let periods = ((time_s - self.start_s) / self.period_s).floor();
        let mut rest_s = time_s - self.start_s - periods * self.period_s;
        let mut energy_j = self.before_j + periods * self.period_j;
        for &(duration_s, power_w) in self.pattern.iter() {
            if rest_s < duration_s {
                return (energy_j + rest_s * power_w, power_w);
            }
            energy_j += duration_s * power_w;
            rest_s -= duration_s;
        }
        (energy_j, self.pattern.last().map_or(0.0, |(_, power_w)| *power_w))
    }
}

impl SimulatedDevice {
    /// A device in real time that draws `power_w` from the time 0 on.
    pub fn new(power_w: f64) -> Self {
        SimulatedDevice::on(Arc::new(WallClock), power_w)
    }

    /// A device by another clock.
    pub fn on(clock: Arc<dyn Clock>, power_w: f64) -> Self {
        let first = Stretch::new(0.0, 0.0, &[(1.0, power_w)]);
        SimulatedDevice { clock, stretches: Arc::new(Mutex::new(vec![first])) }
    }

    /// The clock it lives by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Draws `power_w` from `time_s` on, which must not lie before the last change.
    pub fn set_power_at(&self, time_s: f64, power_w: f64) {
        self.run_at(time_s, &[(1.0, power_w)]);
    }

    /// From `time_s` on, which must not lie before the last change, goes through a pattern of seconds and watts over
    /// and over.
    pub fn run_at(&self, time_s: f64, pattern: &[(f64, f64)]) {
        let before_j = self.energy_j(time_s);
        let mut stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        stretches.push(Stretch::new(time_s, before_j, pattern));
    }

    /// Draws `power_w` from now on.
    pub fn set_power_w(&self, power_w: f64) {
        self.set_power_at(self.clock.now_s(), power_w);
    }

    /// The truth: joules from the time 0 to `time_s`.
    pub fn energy_j(&self, time_s: f64) -> f64 {
        self.at(time_s).0
    }

    /// The truth: watts at `time_s`.
    pub fn power_w(&self, time_s: f64) -> f64 {
        self.at(time_s).1
    }

    fn at(&self, time_s: f64) -> (f64, f64) {
        let stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = stretches.partition_point(|stretch| stretch.start_s <= time_s);
        stretches[behind.saturating_sub(1)].at(time_s)
    }
}

/// A sensor on a simulated device.
pub struct SimulatedSensor {
    info: SensorInfo,
    device: SimulatedDevice,
    noise: Option<(f64, Pcg64)>,
    /// Standard deviation of the noise on every value of a counter, and its seed.
    counter_noise: Option<(f64, u64)>,
    /// How old what it tells is when it tells it first.
    staleness_s: f64,
    /// Share of each update period of which a counter takes notice.
    seen_share: f64,
    dies_at_s: f64,
    resets_at_s: f64,
}

impl SimulatedSensor {
    /// A perfect energy counter that changes every `update_period_s`.
    pub fn counter(device: &SimulatedDevice, update_period_s: f64) -> Self {
        Self::new(device, SensorKind::EnergyCounter, update_period_s)
    }

    /// A perfect power register that changes every `update_period_s` and tells the power at that moment.
    pub fn power(device: &SimulatedDevice, update_period_s: f64) -> Self {
        Self::new(device, SensorKind::Power, update_period_s)
    }

    fn new(device: &SimulatedDevice, kind: SensorKind, update_period_s: f64) -> Self {
        let info = SensorInfo {
            name: "simulated".to_owned(),
            kind,
            scope: Scope::External { name: "simulation".to_owned() },
            update_period_s,
            resolution_j: 0.0,
            range_j: None,
            systematic_relative: 0.0,
            provenance: Provenance::Measured,
            counts_in_total: true,
            description: "a simulated device".to_owned(),
        };
        let never = f64::INFINITY;
        SimulatedSensor {
            info,
            device: device.clone(),
            noise: None,
            counter_noise: None,
            staleness_s: 0.0,
            seen_share: 1.0,
            dies_at_s: never,
            resets_at_s: never,
        }
    }

    /// With another name and systematic error.
    #[must_use]
    pub fn named(mut self, name: &str, systematic_relative: f64) -> Self {
        self.info.name = name.to_owned();
        self.info.systematic_relative = systematic_relative;
        self
    }

    /// With uniform noise of this relative amplitude on power values.
    #[must_use]
    pub fn with_noise(mut self, relative: f64, seed: u64) -> Self {
        self.noise = Some((relative, Pcg64::seed_from_u64(seed)));
        self
    }

    /// With normal noise of this standard deviation on every value that a counter takes.
    #[must_use]
    pub fn with_counter_noise(mut self, sd_j: f64, seed: u64) -> Self {
        self.counter_noise = Some((sd_j, seed));
        self
    }

    /// That tells of the past.
    #[must_use]
    pub fn with_staleness(mut self, staleness_s: f64) -> Self {
        self.staleness_s = staleness_s;
        self
    }

    /// A counter that looks at the last part of each update period alone and takes it for the whole.
    #[must_use]
    pub fn seeing(mut self, share: f64) -> Self {
        self.seen_share = share;
        self
    }

    /// With a counter that wraps around.
    #[must_use]
    pub fn with_range(mut self, range_j: f64) -> Self {
        self.info.range_j = Some(range_j);
        self
    }

    /// With a smallest step of the counter.
    #[must_use]
    pub fn with_resolution(mut self, resolution_j: f64) -> Self {
        self.info.resolution_j = resolution_j;
        self
    }

    /// That stops answering.
    #[must_use]
    pub fn dying_at(mut self, time_s: f64) -> Self {
        self.dies_at_s = time_s;
        self
    }

    /// Whose counter starts again at zero.
    #[must_use]
    pub fn reset_at(mut self, time_s: f64) -> Self {
        self.resets_at_s = time_s;
        self
    }

    /// Joules that the counter has taken notice of.
    fn counted_j(&self, time_s: f64) -> f64 {
        if self.seen_share >= 1.0 {
            return self.device.energy_j(time_s);
        }
        let period_s = self.info.update_period_s;
        let seen_s = self.seen_share * period_s;
        let n_periods = (time_s / period_s + 1e-9).floor() as u64;
        let seen = |period: u64| {
            let end_s = period as f64 * period_s;
            self.device.energy_j(end_s) - self.device.energy_j(end_s - seen_s)
        };
        (1..=n_periods).map(seen).sum::<f64>() / self.seen_share
    }

    /// What it would say at `time_s`.
    ///
    /// # Errors
    /// Once it is dead.
    pub fn read_at(&mut self, time_s: f64) -> Result<Reading> {
        if time_s >= self.dies_at_s {
            return Err(ProfilerError::sensor(&self.info.name)("it died"));
        }
        let period_s = self.info.update_period_s;
        let updated_s = if period_s > 0.0 { (time_s / period_s).floor() * period_s } else { time_s };
        let told_s = (updated_s - self.staleness_s).max(0.0);
        let mut value = match self.info.kind {
            SensorKind::Power => self.device.power_w(told_s),
            SensorKind::EnergyCounter => self.counted_j(told_s),
        };
        if self.info.kind == SensorKind::EnergyCounter && updated_s >= self.resets_at_s {
            value -= self.counted_j((self.resets_at_s - self.staleness_s).max(0.0));
        }
        if let Some((sd_j, seed)) = self.counter_noise {
            // Drawn from the update itself: it reads the same until the next one.
            let mut random = Pcg64::seed_from_u64(seed ^ updated_s.to_bits());
            let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
            value = (value + sd_j * (-2.0 * u.ln()).sqrt() * (TAU * v).cos()).max(0.0);
        }
        if let Some((relative, random)) = &mut self.noise {
            value *= 1.0 + *relative * random.random_range(-1.0..1.0);
        }
        if self.info.resolution_j > 0.0 {
            value = (value / self.info.resolution_j).floor() * self.info.resolution_j;
        }
        Ok(Reading { time_s, value: self.info.range_j.map_or(value, |range_j| value % range_j) })
    }
}

impl Sensor for SimulatedSensor {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        readings.push(self.read_at(self.device.clock.now_s())?);
        Ok(())
    }
}
