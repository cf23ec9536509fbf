//! Sensors: what can tell joules or watts on this machine.
//!
//! A sensor is one file here and one row of [`DISCOVERERS`]: it says what it measures ([`SensorInfo`]) and appends
//! readings when asked. Sampling, wrap-around, windows, uncertainty and reports are the same for all of them and
//! live elsewhere ([`crate::counter`], [`crate::trace`], [`crate::meter`]).

use std::fmt;
use std::path::PathBuf;

use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

pub mod estimator;
pub mod examination;
pub mod hwmon;
pub mod nvml;
pub mod pmic;
pub mod power_log;
#[cfg(target_os = "linux")]
pub mod rapl_perf;
pub mod rapl_powercap;
pub mod self_test;
pub mod simulated;
mod sysfs;

/// Something that tells joules or watts.
pub trait Sensor: Send {
    /// What it measures and how well.
    fn info(&self) -> &SensorInfo;

    /// Appends what the sensor has to say since the last call: one reading for most, every new row for a logger.
    ///
    /// # Errors
    /// When the sensor does not answer. The caller decides whether to ask again.
    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()>;
}

/// One value at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// When the value was current, on the time line of [`crate::clock`].
    pub time_s: f64,
    /// Joules of a counter as it stands, watts of a power sensor.
    pub value: f64,
}

/// What the values of a sensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorKind {
    /// Joules that only grow, but for wraps and resets.
    EnergyCounter,
    /// Watts.
    Power,
}

/// What a sensor measures, and how well.
#[derive(Clone, Debug)]
pub struct SensorInfo {
    /// Unique on this machine, such as `nvml0:energy`.
    pub name: String,
    /// Counter or power.
    pub kind: SensorKind,
    /// The part of the machine whose energy it tells.
    pub scope: Scope,
    /// How often its value changes.
    pub update_period_s: f64,
    /// Smallest step: of a counter, or of one power value over one update period.
    pub resolution_j: f64,
    /// Where a counter wraps around, if it does.
    pub range_j: Option<f64>,
    /// Relative error that repeating cannot average out: gain, calibration, model.
    pub systematic_relative: f64,
    /// The best that a figure from this sensor can claim.
    pub provenance: Provenance,
    /// Whether it may be added to other sensors of this machine. False where a wider sensor holds the same joules
    /// (cores inside a package), and where a better one tells them (power beside the energy counter of one GPU).
    pub counts_in_total: bool,
    /// Where the values come from, for a person.
    pub description: String,
}

impl SensorInfo {
    /// Whether the value of a counter is as good as current whenever it is read: it is updated at least every 5 ms,
    /// more often than a sampler reads. The moments of a slower counter's changes are told by watching it instead.
    pub fn is_current(&self) -> bool {
        self.kind == SensorKind::EnergyCounter && self.update_period_s < 5e-3
    }
}

/// A part of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// One graphics processor with its memory.
    Gpu {
        /// Index of the driver.
        index: u32,
    },
    /// One processor socket: cores, caches, memory controller.
    CpuPackage {
        /// Number of the socket.
        index: u32,
    },
    /// The cores of a socket without the rest of it.
    CpuCores {
        /// Number of the socket.
        package: u32,
    },
    /// What is beside the cores in a socket, such as an integrated GPU.
    CpuUncore {
        /// Number of the socket.
        package: u32,
    },
    /// The memory modules of a socket.
    Dram {
        /// Number of the socket.
        package: u32,
    },
    /// Everything behind the platform's own meter.
    Platform,
    /// One supply rail of a board.
    Board {
        /// Name of the rail.
        rail: String,
    },
    /// This process's share of the machine, by a model.
    Process,
    /// Whatever the user put behind a meter of their own.
    External {
        /// Name of the meter.
        name: String,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Gpu { index } => write!(f, "GPU {index}"),
            Scope::CpuPackage { index } => write!(f, "CPU package {index}"),
            Scope::CpuCores { package } => write!(f, "CPU cores of package {package}"),
            Scope::CpuUncore { package } => write!(f, "CPU uncore of package {package}"),
            Scope::Dram { package } => write!(f, "DRAM of package {package}"),
            Scope::Platform => f.write_str("platform"),
            Scope::Board { rail } => write!(f, "board, rail {rail}"),
            Scope::Process => f.write_str("this process"),
            Scope::External { name } => write!(f, "behind {name}"),
        }
    }
}

/// Where sensors are looked for; tests point it at a tree of their own.
#[derive(Clone, Debug)]
pub struct SearchPaths {
    /// The `/sys` tree.
    pub sysfs: PathBuf,
    /// The command that asks a Raspberry Pi's firmware.
    pub vcgencmd: PathBuf,
}

impl Default for SearchPaths {
    fn default() -> Self {
        SearchPaths { sysfs: "/sys".into(), vcgencmd: "vcgencmd".into() }
    }
}

/// What a search brought up.
#[derive(Default)]
pub struct Discovery {
    /// Sensors that answered once.
    pub sensors: Vec<Box<dyn Sensor>>,
    /// Sensors that are there and closed, each with what opens it.
    pub problems: Vec<ProfilerError>,
}

impl Discovery {
    /// Keeps the sensor if it answers, else the reason.
    fn admit(&mut self, mut sensor: impl Sensor + 'static) {
        match sensor.read(&mut Vec::new()) {
            Ok(()) => self.sensors.push(Box::new(sensor)),
            Err(problem) => self.problems.push(problem),
        }
    }

    fn has_scope(&self, fits: impl Fn(&Scope) -> bool) -> bool {
        self.sensors.iter().any(|sensor| fits(&sensor.info().scope))
    }
}

/// A row of the table of sensors.
pub struct Discoverer {
    /// Name on the command line.
    pub name: &'static str,
    /// Adds what it finds.
    pub discover: fn(&SearchPaths, &mut Discovery),
}

/// Every kind of sensor, in the order of search. A kind may look at what stands already and stay away.
pub const DISCOVERERS: &[Discoverer] = &[
    Discoverer { name: "nvml", discover: nvml::discover },
    Discoverer { name: "rapl-powercap", discover: rapl_powercap::discover },
    #[cfg(target_os = "linux")]
    Discoverer { name: "rapl-perf", discover: rapl_perf::discover },
    Discoverer { name: "hwmon", discover: hwmon::discover },
    Discoverer { name: "pmic", discover: pmic::discover },
    Discoverer { name: "estimator", discover: estimator::discover },
];

/// Searches the machine for sensors of every kind.
///
/// There is always at least one: where nothing measures the processor, the estimator stands in.
pub fn discover(paths: &SearchPaths) -> Discovery {
    let mut discovery = Discovery::default();
    for discoverer in DISCOVERERS {
        (discoverer.discover)(paths, &mut discovery);
    }
    discovery
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_sensors_gets_the_estimator_and_nothing_else() {
        let empty = tempfile::tempdir().unwrap();
        let paths =
            SearchPaths { sysfs: empty.path().into(), vcgencmd: empty.path().join("no-such-command") };
        let mut discovery = Discovery::default();
        // NVML is the one kind without a path of its own: a test machine may really have a GPU.
        for discoverer in DISCOVERERS.iter().filter(|discoverer| discoverer.name != "nvml") {
            (discoverer.discover)(&paths, &mut discovery);
        }
        let names: Vec<_> = discovery.sensors.iter().map(|sensor| sensor.info().name.clone()).collect();
        assert_eq!(names, ["estimator"]);
        assert!(discovery.problems.is_empty(), "{:?}", discovery.problems);
    }
}
