//! Power and energy channels behind `/sys/class/hwmon`: INA3221 and INA2xx monitors of boards (Jetson among them),
//! power meters of servers, socket counters of some processors.
//!
//! Scope: one supply rail, by the name the kernel gives it. Rails nest (a module's input contains its processor's
//! rail), so only what is known to be an input or a socket counts in totals.
//! Update period: an INA monitor's conversion time times its averaging, here the kernel's `update_interval` where it
//! tells, else 100 ms. Resolution: one least bit, 1 mW to 25 mW by shunt. Systematic term: shunt and amplifier
//! together stay within 2 % on the boards whose schematics are public; 5 % is assumed.

use std::path::{Path, PathBuf};

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind, sysfs};
use crate::clock;
use crate::energy::Provenance;
use crate::error::Result;

const REMEDY: &str = "run `sudo chmod a+r` on it";

/// Names of rails that feed everything behind them.
const INPUT_RAILS: &[&str] = &["VDD_IN", "POM_5V_IN", "SYS_VIN", "VIN_SYS_5V0", "VDD_5V_IN", "Module"];

/// How a channel tells its value.
enum Channel {
    /// Microjoules that only grow.
    Energy(PathBuf),
    /// Microwatts.
    Power(PathBuf),
    /// Milliamperes and millivolts.
    CurrentAndVoltage(PathBuf, PathBuf),
}

/// One channel of a hardware monitor.
pub struct HwmonChannel {
    info: SensorInfo,
    channel: Channel,
}

/// Adds a sensor for every channel that tells joules or watts.
pub fn discover(paths: &SearchPaths, discovery: &mut Discovery) {
    for chip in sysfs::entries(&paths.sysfs.join("class/hwmon"), |name| name.starts_with("hwmon")) {
        let Ok(name) = sysfs::text(&chip.join("name")) else { continue };
        for sensor in channels(&chip, &name) {
            discovery.admit(sensor);
        }
    }
}

/// The channels of the monitor in a directory.
fn channels(chip: &Path, name: &str) -> Vec<HwmonChannel> {
    let label = |stem: &str| sysfs::text(&chip.join(format!("{stem}_label"))).ok();
    let mut found = Vec::new();
    let with_suffix = |prefix: &'static str, suffix: &'static str| {
        sysfs::entries(chip, move |file| file.starts_with(prefix) && file.ends_with(suffix))
    };
    for path in with_suffix("energy", "_input") {
        let stem = stem(&path, "_input");
        // Counters of single cores are as many as they are useless here.
        let rail = label(&stem).unwrap_or(stem);
        if !rail.starts_with("Ecore") {
            found.push(HwmonChannel::new(chip, name, &rail, Channel::Energy(path)));
        }
    }
    let mut powers = with_suffix("power", "_input");
    powers.extend(with_suffix("power", "_average"));
    let mut stems = Vec::new();
    for path in powers {
        let stem = stem(stem(&path, "_input"), "_average");
        if !stems.contains(&stem) {
            let rail = label(&stem).unwrap_or_else(|| stem.clone());
            found.push(HwmonChannel::new(chip, name, &rail, Channel::Power(path)));
            stems.push(stem);
        }
    }
    // An INA3221 tells currents and voltages; so do fan controllers and chargers, whose product means nothing here.
    if found.is_empty() && name.starts_with("ina") {
        for current in with_suffix("curr", "_input") {
            let number = stem(&current, "_input").replace("curr", "");
            let voltage = chip.join(format!("in{number}_input"));
            if voltage.exists() {
                let rail = label(&format!("in{number}")).unwrap_or_else(|| format!("channel {number}"));
                let channel = Channel::CurrentAndVoltage(current, voltage);
                found.push(HwmonChannel::new(chip, name, &rail, channel));
            }
        }
    }
    found
}

/// The file name without its suffix.
fn stem(path: impl AsRef<Path>, suffix: &str) -> String {
    let name = path.as_ref().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(suffix).unwrap_or(name).to_owned()
}

impl HwmonChannel {
    fn new(chip: &Path, chip_name: &str, rail: &str, channel: Channel) -> Self {
        let socket = rail.strip_prefix("Esocket").and_then(|number| number.parse().ok());
        let is_input = INPUT_RAILS.contains(&rail) || chip_name == "power_meter";
        let interval_s = sysfs::text(&chip.join("update_interval"))
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|&milliseconds| milliseconds > 0.0)
            .map_or(0.1, |milliseconds| milliseconds * 1e-3);
        let kind = match channel {
            Channel::Energy(_) => SensorKind::EnergyCounter,
            Channel::Power(_) | Channel::CurrentAndVoltage(..) => SensorKind::Power,
        };
        let resolution_j = match channel {
            Channel::Energy(_) => 1e-6,
            Channel::Power(_) | Channel::CurrentAndVoltage(..) => 25e-3 * interval_s,
        };
        let info = SensorInfo {
            name: format!("hwmon:{chip_name}:{rail}"),
            kind,
            scope: match socket {
                Some(index) => Scope::CpuPackage { index },
                None => Scope::Board { rail: rail.to_owned() },
            },
            update_period_s: interval_s,
            resolution_j,
            range_j: None,
            systematic_relative: 0.05,
            provenance: Provenance::Measured,
            counts_in_total: is_input || socket.is_some(),
            description: format!("channel {rail} of hardware monitor {chip_name}"),
        };
        HwmonChannel { info, channel }
    }
}

impl Sensor for HwmonChannel {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let number = |path: &Path| sysfs::number(&self.info.name, path, REMEDY);
        let value = match &self.channel {
            Channel::Energy(path) | Channel::Power(path) => number(path)? * 1e-6,
            Channel::CurrentAndVoltage(current, voltage) => number(current)? * 1e-3 * number(voltage)? * 1e-3,
        };
        readings.push(Reading { time_s: clock::now_s(), value });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn discovered(files: &[(&str, &str)]) -> (tempfile::TempDir, Discovery) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join("class/hwmon").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        let paths = SearchPaths { sysfs: root.path().into(), ..SearchPaths::default() };
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        (root, discovery)
    }

    fn only_value(sensor: &mut dyn Sensor) -> f64 {
        let mut readings = Vec::new();
        sensor.read(&mut readings).unwrap();
        assert_eq!(readings.len(), 1);
        readings[0].value
    }

    #[test]
    fn a_board_with_an_ina3221_tells_current_times_voltage_per_rail() {
        let (_root, mut discovery) = discovered(&[
            ("hwmon1/name", "ina3221"),
            ("hwmon1/in1_label", "VDD_IN"),
            ("hwmon1/in1_input", "5000"),
            ("hwmon1/curr1_input", "1200"),
            ("hwmon1/in2_label", "VDD_CPU_GPU_CV"),
            ("hwmon1/in2_input", "5000"),
            ("hwmon1/curr2_input", "400"),
            ("hwmon1/in7_label", "Sum of shunt voltages"),
            ("hwmon1/in7_input", "1"),
        ]);
        let rails: Vec<_> = discovery
            .sensors
            .iter()
            .map(|sensor| (sensor.info().name.clone(), sensor.info().counts_in_total))
            .collect();
        assert_eq!(
            rails,
            [("hwmon:ina3221:VDD_IN".into(), true), ("hwmon:ina3221:VDD_CPU_GPU_CV".into(), false)]
        );
        // 1.2 A at 5 V; three roundings of the decimal factors.
        assert!((only_value(&mut *discovery.sensors[0]) - 6.0).abs() < 1e-12);
        assert!((only_value(&mut *discovery.sensors[1]) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn power_and_energy_files_are_microwatts_and_microjoules() {
        let (_root, mut discovery) = discovered(&[
            ("hwmon0/name", "power_meter"),
            ("hwmon0/power1_average", "215000000"),
            ("hwmon0/update_interval", "1000"),
            ("hwmon1/name", "amd_energy"),
            ("hwmon1/energy1_label", "Ecore000"),
            ("hwmon1/energy1_input", "1"),
            ("hwmon1/energy2_label", "Esocket0"),
            ("hwmon1/energy2_input", "7500000"),
        ]);
        assert_eq!(discovery.sensors.len(), 2);
        assert!((only_value(&mut *discovery.sensors[0]) - 215.0).abs() < 1e-9);
        assert_eq!(discovery.sensors[0].info().update_period_s, 1.0);
        assert!((only_value(&mut *discovery.sensors[1]) - 7.5).abs() < 1e-12);
        assert_eq!(discovery.sensors[1].info().scope, Scope::CpuPackage { index: 0 });
    }

    #[test]
    fn a_charger_with_current_and_voltage_is_no_sensor() {
        let (_root, discovery) = discovered(&[
            ("hwmon0/name", "ucsi_source_psy"),
            ("hwmon0/curr1_input", "3000"),
            ("hwmon0/in1_input", "5000"),
        ]);
        assert!(discovery.sensors.is_empty());
    }
}
