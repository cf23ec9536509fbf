//! The stand-in where no sensor is: energy by a model.
//!
//! ```text
//! E = P_static * T  +  P_core * CPU time  +  e_flop * flops  +  e_byte * bytes
//! ```
//! For a processor, work shows as processor time of this process and the last two terms are zero. For a GPU that
//! tells nothing of itself, work shows as operations and bytes, which the engine counts, and processor time is zero.
//! Scope: this process, charged with the whole machine's static power. Provenance: estimated, always; the systematic
//! term of 50 % says that such a figure orders layers and not machines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind};
use crate::clock;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::process;

/// Relative band of every estimate.
pub const BAND_RELATIVE: f64 = 0.5;

/// The constants of a model, with where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnergyModel {
    /// Name of the row.
    pub name: &'static str,
    /// Power of the machine at rest, per core for processors.
    pub static_power_w: f64,
    /// What a core draws on top while it works.
    pub core_power_w: f64,
    /// Energy of one floating-point operation.
    pub energy_per_flop_j: f64,
    /// Energy of one byte to or from memory.
    pub energy_per_byte_j: f64,
    /// Where the constants come from.
    pub basis: &'static str,
}

/// Processors of servers and desktops.
pub const CPU_X86_64: EnergyModel = EnergyModel {
    name: "cpu-x86_64",
    static_power_w: 1.0,
    core_power_w: 6.0,
    energy_per_flop_j: 0.0,
    energy_per_byte_j: 0.0,
    basis: "package powers of 15 to 350 W over 4 to 64 cores give 4 to 8 W per busy core, and about 1 W at rest",
};

/// Processors of boards and phones.
pub const CPU_AARCH64: EnergyModel = EnergyModel {
    name: "cpu-aarch64",
    static_power_w: 0.4,
    core_power_w: 0.8,
    energy_per_flop_j: 0.0,
    energy_per_byte_j: 0.0,
    basis: "a Raspberry Pi 5 reads 1.55 W at rest and 4.51 W with four busy cores at its PMIC",
};

/// Accelerators that tell nothing of themselves.
pub const GPU: EnergyModel = EnergyModel {
    name: "gpu",
    static_power_w: 124.0,
    core_power_w: 0.0,
    energy_per_flop_j: 0.9e-12,
    energy_per_byte_j: 145e-12,
    basis: "an H100 SXM reads 124 W at rest, 695 W at 634 TFLOP/s in f16 and 562 W at 3.03 TB/s",
};

impl EnergyModel {
    /// The row for this program's processor architecture.
    pub fn of_this_cpu() -> Self {
        if cfg!(target_arch = "aarch64") { CPU_AARCH64 } else { CPU_X86_64 }
    }

    /// The energy of some work.
    pub fn energy_j(&self, duration_s: f64, cpu_time_s: f64, flops: f64, bytes: f64) -> f64 {
        self.static_power_w * duration_s
            + self.core_power_w * cpu_time_s
            + self.energy_per_flop_j * flops
            + self.energy_per_byte_j * bytes
    }
}

/// Operations and bytes so far, counted by whoever runs the model.
#[derive(Debug, Default)]
pub struct WorkCounter {
    flops: AtomicU64,
    bytes: AtomicU64,
}

impl WorkCounter {
    /// Counts some work.
    pub fn add(&self, flops: u64, bytes: u64) {
        self.flops.fetch_add(flops, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A model in the place of a sensor.
pub struct Estimator {
    info: SensorInfo,
    model: EnergyModel,
    work: Arc<WorkCounter>,
    n_units: f64,
}

impl Estimator {
    /// An estimator of this machine's processor.
    pub fn of_this_cpu() -> Self {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Estimator::new("estimator", EnergyModel::of_this_cpu(), Scope::Process, n_cores as f64)
    }

    /// An estimator of a GPU whose work `work()` counts.
    pub fn of_gpu(index: u32) -> Self {
        Estimator::new("estimator:gpu", GPU, Scope::Gpu { index }, 1.0)
    }

    fn new(name: &str, model: EnergyModel, scope: Scope, n_units: f64) -> Self {
        let info = SensorInfo {
            name: name.to_owned(),
            kind: SensorKind::EnergyCounter,
            scope,
            // The kernel accounts processor time at every switch and every question: no period to wait for.
            update_period_s: 1e-4,
            resolution_j: 1e-9 * model.core_power_w.max(1.0),
            range_j: None,
            systematic_relative: BAND_RELATIVE,
            provenance: Provenance::Estimated,
            counts_in_total: true,
            description: format!(
                "model {}: {} W x {n_units} at rest, {} W per busy core, {} pJ/FLOP, {} pJ/byte; {}",
                model.name,
                model.static_power_w,
                model.core_power_w,
                model.energy_per_flop_j * 1e12,
                model.energy_per_byte_j * 1e12,
                model.basis
            ),
        };
        Estimator { info, model, work: Arc::default(), n_units }
    }

    /// Where the work of the model is counted.
    pub fn work(&self) -> Arc<WorkCounter> {
        Arc::clone(&self.work)
    }
}

/// Adds the estimator where nothing measures the processor.
pub fn discover(_: &SearchPaths, discovery: &mut Discovery) {
    let is_measured = discovery
        .has_scope(|scope| matches!(scope, Scope::CpuPackage { .. } | Scope::Platform | Scope::Board { .. }));
    if !is_measured {
        discovery.admit(Estimator::of_this_cpu());
    }
}

impl Sensor for Estimator {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let time_s = clock::now_s();
        let cpu_time_s = process::cpu_time_s()
            .ok_or_else(|| ProfilerError::sensor(&self.info.name)("the system tells no processor time"))?;
        let flops = self.work.flops.load(Ordering::Relaxed) as f64;
        let bytes = self.work.bytes.load(Ordering::Relaxed) as f64;
        let value = self.model.energy_j(time_s * self.n_units, cpu_time_s, flops, bytes);
        readings.push(Reading { time_s, value });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_sum_of_its_terms() {
        let model = EnergyModel { core_power_w: 6.0, static_power_w: 2.0, ..GPU };
        // 2 W * 3 s + 6 W * 1.5 s + 0.9 pJ * 1e12 + 145 pJ * 1e10.
        assert!((model.energy_j(3.0, 1.5, 1e12, 1e10) - (6.0 + 9.0 + 0.9 + 1.45)).abs() < 1e-9);
    }

    #[test]
    fn counted_work_raises_the_reading_by_its_energy() {
        let mut gpu = Estimator::of_gpu(0);
        let mut readings = Vec::new();
        gpu.read(&mut readings).unwrap();
        gpu.work().add(10_u64.pow(15), 10_u64.pow(13));
        gpu.read(&mut readings).unwrap();
        let static_j = GPU.static_power_w * (readings[1].time_s - readings[0].time_s);
        // 1e15 * 0.9 pJ + 1e13 * 145 pJ, next to rounding.
        assert!((readings[1].value - readings[0].value - static_j - 2350.0).abs() < 1e-6);
    }

    #[test]
    fn an_estimate_says_that_it_is_one() {
        let info = Estimator::of_this_cpu().info;
        assert_eq!((info.provenance, info.systematic_relative), (Provenance::Estimated, 0.5));
    }
}
