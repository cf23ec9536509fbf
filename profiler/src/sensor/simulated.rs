//! A sensor whose truth is known: a device that draws what it is told to, seen through a counter or a power register
//! with any of the faults of real ones. Tests of everything above sensors stand on it.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::{Reading, Scope, Sensor, SensorInfo, SensorKind};
use crate::clock;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

/// A device whose power is set by whoever simulates its work.
#[derive(Clone, Debug)]
pub struct SimulatedDevice {
    /// Stretches of constant power, each with the energy used before it.
    stretches: Arc<Mutex<Vec<Stretch>>>,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    start_s: f64,
    before_j: f64,
    power_w: f64,
}

impl SimulatedDevice {
    /// A device that draws `power_w` from the time 0 on.
    pub fn new(power_w: f64) -> Self {
        let first = Stretch { start_s: 0.0, before_j: 0.0, power_w };
        SimulatedDevice { stretches: Arc::new(Mutex::new(vec![first])) }
    }

    /// Draws `power_w` from `time_s` on, which must not lie before the last change.
    pub fn set_power_at(&self, time_s: f64, power_w: f64) {
        let before_j = self.energy_j(time_s);
        let mut stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        stretches.push(Stretch { start_s: time_s, before_j, power_w });
    }

    /// Draws `power_w` from now on.
    pub fn set_power_w(&self, power_w: f64) {
        self.set_power_at(clock::now_s(), power_w);
    }

    /// The truth: joules from the time 0 to `time_s`.
    pub fn energy_j(&self, time_s: f64) -> f64 {
        let stretch = self.stretch(time_s);
        stretch.before_j + stretch.power_w * (time_s - stretch.start_s)
    }

    fn stretch(&self, time_s: f64) -> Stretch {
        let stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = stretches.partition_point(|stretch| stretch.start_s <= time_s);
        stretches[behind.saturating_sub(1)]
    }
}

/// A sensor on a simulated device.
pub struct SimulatedSensor {
    info: SensorInfo,
    device: SimulatedDevice,
    noise: Option<(f64, Pcg64)>,
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
        SimulatedSensor { info, device: device.clone(), noise: None, dies_at_s: never, resets_at_s: never }
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
        let mut value = match self.info.kind {
            SensorKind::Power => self.device.stretch(updated_s).power_w,
            SensorKind::EnergyCounter if updated_s >= self.resets_at_s => {
                self.device.energy_j(updated_s) - self.device.energy_j(self.resets_at_s)
            }
            SensorKind::EnergyCounter => self.device.energy_j(updated_s),
        };
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
        readings.push(self.read_at(clock::now_s())?);
        Ok(())
    }
}
