//! RAPL and other energy counters behind `/sys/class/powercap`.
//!
//! Scope: a processor socket (`package-N`) and, where the platform has them, its memory (`dram`), its cores (`core`),
//! the rest beside them (`uncore`) and the whole platform (`psys`). Only packages and DRAM are added up: cores and
//! uncore lie inside their package, and the platform contains everything.
//! Update period: about 1 ms. Resolution: 15 to 61 microjoules by platform; the files say microjoules.
//! Systematic term: the counters are calibrated on recent parts and modelled on older ones; 5 % is this project's
//! assumption, not a datum of the vendor.
//! `intel-rapl-mmio` shows the same packages a second time and is left out; `arm-scmi` zones are read the same way.

use std::path::{Path, PathBuf};

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind, sysfs};
use crate::clock;
use crate::energy::Provenance;
use crate::error::Result;

/// How a user opens the counters, closed to all but root since 2020.
const REMEDY: &str = "run `sudo chmod a+r /sys/class/powercap/*/energy_uj`, or make it a udev rule";

/// One zone of powercap.
pub struct PowercapZone {
    info: SensorInfo,
    path: PathBuf,
}

/// Adds a sensor for every zone with an energy counter.
pub fn discover(paths: &SearchPaths, discovery: &mut Discovery) {
    let directory = paths.sysfs.join("class/powercap");
    let zones = sysfs::entries(&directory, |name| {
        (name.starts_with("intel-rapl:") || name.starts_with("arm-scmi:")) && name.contains(':')
    });
    for path in zones {
        if let Some(zone) = PowercapZone::open(&path) {
            discovery.admit(zone);
        }
    }
}

impl PowercapZone {
    /// The zone in a directory, if it has an energy counter.
    fn open(path: &Path) -> Option<Self> {
        let counter = path.join("energy_uj");
        if !counter.exists() {
            return None;
        }
        let directory = path.file_name()?.to_str()?;
        let label = sysfs::text(&path.join("name")).ok()?;
        let socket = socket(directory, &label, path);
        let (scope, counts_in_total) = match label.split('-').next()? {
            "package" => (Scope::CpuPackage { index: socket }, true),
            "dram" => (Scope::Dram { package: socket }, true),
            "core" => (Scope::CpuCores { package: socket }, false),
            "uncore" => (Scope::CpuUncore { package: socket }, false),
            "psys" => (Scope::Platform, false),
            _ => (Scope::Board { rail: label.clone() }, false),
        };
        let range_j = sysfs::text(&path.join("max_energy_range_uj")).ok();
        let range_j = range_j.and_then(|text| text.parse::<f64>().ok()).map(|microjoules| microjoules * 1e-6);
        let info = SensorInfo {
            name: format!("rapl:{}", if label.contains('-') { label } else { format!("{label}-{socket}") }),
            kind: SensorKind::EnergyCounter,
            scope,
            update_period_s: 1e-3,
            resolution_j: 61e-6,
            range_j,
            systematic_relative: 0.05,
            provenance: Provenance::Measured,
            counts_in_total,
            description: format!("energy counter of powercap zone {directory}"),
        };
        Some(PowercapZone { info, path: counter })
    }
}

/// The socket of a zone: `package-1` says it, a child (`intel-rapl:1:0`) has it from its parent's name.
fn socket(directory: &str, label: &str, path: &Path) -> u32 {
    let of_label = |label: &str| label.strip_prefix("package-")?.split('-').next()?.parse().ok();
    let parent = directory.rsplit_once(':').map(|(parent, _)| path.with_file_name(parent));
    let of_parent = || of_label(&sysfs::text(&parent?.join("name")).ok()?);
    let of_directory = || directory.split(':').nth(1)?.parse().ok();
    of_label(label).or_else(of_parent).or_else(of_directory).unwrap_or(0)
}

impl Sensor for PowercapZone {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let microjoules = sysfs::number(&self.info.name, &self.path, REMEDY)?;
        readings.push(Reading { time_s: clock::now_s(), value: microjoules * 1e-6 });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Two sockets with DRAM and cores, the same packages through MMIO, and a platform counter.
    fn tree() -> (tempfile::TempDir, SearchPaths) {
        let root = tempfile::tempdir().unwrap();
        let zones = [
            ("intel-rapl", "control", None),
            ("intel-rapl:0", "package-1", Some(1_000_000)),
            ("intel-rapl:0:0", "dram", Some(2_000_000)),
            ("intel-rapl:0:1", "core", Some(500_000)),
            ("intel-rapl:1", "package-0", Some(3_000_000)),
            ("intel-rapl:2", "psys", Some(9_000_000)),
            ("intel-rapl-mmio:0", "package-0", Some(3_000_000)),
        ];
        for (directory, name, energy) in zones {
            let path = root.path().join("class/powercap").join(directory);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("name"), format!("{name}\n")).unwrap();
            if let Some(energy) = energy {
                fs::write(path.join("energy_uj"), format!("{energy}\n")).unwrap();
                fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
            }
        }
        let paths = SearchPaths { sysfs: root.path().into(), ..SearchPaths::default() };
        (root, paths)
    }

    #[test]
    fn each_domain_is_found_once_and_only_disjoint_ones_add_up() {
        let (_root, paths) = tree();
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        let found: Vec<_> = discovery
            .sensors
            .iter()
            .map(|sensor| (sensor.info().name.as_str(), sensor.info().counts_in_total))
            .collect();
        assert_eq!(
            found,
            [
                ("rapl:package-1", true),
                ("rapl:dram-1", true),
                ("rapl:core-1", false),
                ("rapl:package-0", true),
                ("rapl:psys-2", false),
            ]
        );
    }

    #[test]
    fn microjoules_become_joules_and_the_range_is_kept() {
        let (root, paths) = tree();
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        let package = &mut discovery.sensors[0];
        let mut readings = Vec::new();
        package.read(&mut readings).unwrap();
        fs::write(root.path().join("class/powercap/intel-rapl:0/energy_uj"), "1500000\n").unwrap();
        package.read(&mut readings).unwrap();
        let values: Vec<_> = readings.iter().map(|reading| reading.value).collect();
        // Products of a whole number and 1e-6 round to within one unit in the last place.
        assert!((values[0] - 1.0).abs() < 1e-12 && (values[1] - 1.5).abs() < 1e-12);
        assert!((package.info().range_j.unwrap() - 262_143.328_85).abs() < 1e-6);
    }

    #[test]
    fn a_counter_that_turns_to_nonsense_is_an_error_that_names_the_file() {
        let (root, paths) = tree();
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        fs::write(root.path().join("class/powercap/intel-rapl:0/energy_uj"), "none\n").unwrap();
        let error = discovery.sensors[0].read(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("rapl:package-1") && error.contains("`none`"), "{error}");
    }
}
