//! GPUs through NVML: the energy counter, and average and instant power.
//!
//! Scope: one GPU with its memory; on some modules (GH200) the counter includes the processor beside it, and under
//! MIG every instance reports the whole GPU.
//! The counter is updated every 20 to 100 ms and integrates continuously on the GPUs where that was tested. It never
//! wraps (64 bits of millijoules) and starts again when the driver is loaded.
//! The vendor states 5 % for the sensor; the gain is the board's own, so it cancels in ratios on one board.
//! Instant power (field 186) sees as little as a quarter of the time, and average power (field 185) is smoothed over a
//! second: both are for time lines and cross-checks and do not count where the counter answers.
//!
//! The library is looked for at run time: a machine without an NVIDIA driver has simply none of these.

use std::ffi::OsStr;
use std::sync::OnceLock;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
};
use nvml_wrapper::{Device, Nvml};

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind};
use crate::clock;
use crate::conditions::AT_POWER_CAP;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

/// Where the library is found: by its name for developers, as installed by the driver, and inside WSL.
const LIBRARIES: &[&str] =
    &["libnvidia-ml.so", "libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1", "nvml.dll"];

/// The library, opened once for the life of the process.
fn library() -> Option<&'static Nvml> {
    static LIBRARY: OnceLock<Option<Nvml>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            LIBRARIES.iter().find_map(|name| Nvml::builder().lib_path(OsStr::new(name)).init().ok())
        })
        .as_ref()
}

/// One figure that a GPU tells of itself.
pub struct NvmlSensor {
    info: SensorInfo,
    device: Device<'static>,
    field: u32,
}

/// A row of the table of NVML fields.
struct Field {
    id: u32,
    part: &'static str,
    kind: SensorKind,
    update_period_s: f64,
    description: &'static str,
}

const FIELDS: &[Field] = &[
    Field {
        id: NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
        part: "energy",
        kind: SensorKind::EnergyCounter,
        update_period_s: 0.1,
        description: "energy since the driver was loaded",
    },
    Field {
        id: NVML_FI_DEV_POWER_AVERAGE,
        part: "power-average",
        kind: SensorKind::Power,
        update_period_s: 0.1,
        description: "power averaged over one second",
    },
    Field {
        id: NVML_FI_DEV_POWER_INSTANT,
        part: "power-instant",
        kind: SensorKind::Power,
        update_period_s: 0.1,
        description: "power over a short window",
    },
];

/// Adds what every GPU tells.
pub fn discover(_: &SearchPaths, discovery: &mut Discovery) {
    let Some(nvml) = library() else { return };
    let n_devices = nvml.device_count().unwrap_or(0);
    for index in 0..n_devices {
        let device = || nvml.device_by_index(index).map_err(ProfilerError::sensor(&format!("nvml{index}")));
        // The fields are in the order of trust: the first that answers counts.
        let mut is_counted = false;
        for field in FIELDS {
            match device() {
                Ok(device) => {
                    let mut sensor = NvmlSensor::new(device, index, field, !is_counted);
                    // A field that this GPU does not have is no problem.
                    if sensor.read(&mut Vec::new()).is_ok() {
                        is_counted = true;
                        discovery.sensors.push(Box::new(sensor));
                    }
                }
                Err(problem) => discovery.problems.push(problem),
            }
        }
    }
}

/// What every GPU is: its model, and the name that no other board has. None without a driver.
pub(crate) fn boards() -> Vec<String> {
    let Some(nvml) = library() else { return Vec::new() };
    let board = |index: u32| {
        let device = nvml.device_by_index(index).ok()?;
        let names = [device.name().ok(), device.uuid().ok()];
        Some(names.into_iter().flatten().collect::<Vec<_>>().join(" "))
    };
    (0..nvml.device_count().unwrap_or(0)).filter_map(board).collect()
}

/// How a GPU is doing.
pub(crate) struct GpuState {
    /// Of the chip.
    pub(crate) temperature_c: Option<f64>,
    /// Of the multiprocessors.
    pub(crate) clock_hz: Option<f64>,
    /// What speaks against measuring just now.
    pub(crate) complaints: Vec<String>,
}

/// Asks a GPU how it is doing; `None` without a driver.
pub(crate) fn state(index: u32) -> Option<GpuState> {
    let device = library()?.device_by_index(index).ok()?;
    let temperature_c = device.temperature(TemperatureSensor::Gpu).ok().map(f64::from);
    let clock_hz = device.clock_info(Clock::SM).ok().map(|megahertz| f64::from(megahertz) * 1e6);
    let mut complaints = Vec::new();
    if let Ok(reasons) = device.current_throttle_reasons() {
        let hot = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        if reasons.intersects(hot) {
            complaints.push("the GPU was throttled for its temperature".to_owned());
        }
        if reasons.intersects(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN | ThrottleReasons::HW_SLOWDOWN) {
            complaints.push("the GPU was throttled by a power brake".to_owned());
        }
        if reasons.contains(ThrottleReasons::SW_POWER_CAP) {
            complaints.push(AT_POWER_CAP.to_owned());
        }
    }
    // One of them is this process, whose number may be another outside of a container.
    if device.running_compute_processes().is_ok_and(|processes| processes.len() > 1) {
        complaints.push("another process has a context on the GPU".to_owned());
    }
    Some(GpuState { temperature_c, clock_hz, complaints })
}

impl NvmlSensor {
    fn new(device: Device<'static>, index: u32, field: &Field, counts_in_total: bool) -> Self {
        let model = device.name().unwrap_or_else(|_| "GPU".to_owned());
        let info = SensorInfo {
            name: format!("nvml{index}:{}", field.part),
            kind: field.kind,
            scope: Scope::Gpu { index },
            update_period_s: field.update_period_s,
            resolution_j: match field.kind {
                SensorKind::EnergyCounter => 1e-3,
                SensorKind::Power => 1e-3 * field.update_period_s,
            },
            range_j: None,
            systematic_relative: 0.05,
            provenance: Provenance::Measured,
            counts_in_total,
            description: format!("{model}: {}", field.description),
        };
        NvmlSensor { info, device, field: field.id }
    }
}

impl Sensor for NvmlSensor {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let failed = |reason: NvmlError| ProfilerError::sensor(&self.info.name)(reason);
        let before_s = clock::now_s();
        let samples = self.device.field_values_for(&[FieldId(self.field)]).map_err(failed)?;
        let time_s = (before_s + clock::now_s()) / 2.0;
        let sample = samples.into_iter().next();
        let sample = sample.unwrap_or(Err(NvmlError::NotFound));
        let value = sample.and_then(|sample| sample.value).map_err(failed)?;
        // Millijoules and milliwatts.
        let milli = match value {
            SampleValue::F64(value) => value,
            SampleValue::U32(value) => f64::from(value),
            SampleValue::U64(value) => value as f64,
            SampleValue::I64(value) => value as f64,
        };
        readings.push(Reading { time_s, value: milli * 1e-3 });
        Ok(())
    }
}
