//! RAPL through perf events, for machines where powercap is closed or missing.
//!
//! The same counters as [`super::rapl_powercap`], with the kernel doing the wrap-around (64 bits). They need
//! `CAP_PERFMON` or `kernel.perf_event_paranoid` at 0 or below. The event source `power` lists its events as files
//! and, in `cpumask`, one core of each socket to ask.

use std::path::Path;

use perf_event::events::Dynamic;
use perf_event::{Builder, Counter};

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind, sysfs};
use crate::clock;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

const REMEDY: &str = "run `sudo sysctl kernel.perf_event_paranoid=0`, or grant the program CAP_PERFMON";

/// One energy event on one socket.
pub struct RaplPerf {
    info: SensorInfo,
    counter: Counter,
    joules_per_count: f64,
}

/// Adds the packages' and memories' events, unless powercap told them already.
pub fn discover(paths: &SearchPaths, discovery: &mut Discovery) {
    let source = paths.sysfs.join("bus/event_source/devices/power");
    if discovery.has_scope(|scope| matches!(scope, Scope::CpuPackage { .. })) {
        return;
    }
    let cores = sysfs::text(&source.join("cpumask")).map(|mask| first_cores(&mask)).unwrap_or_default();
    for (socket, &core) in cores.iter().enumerate() {
        for event in ["energy-pkg", "energy-ram"] {
            if !source.join("events").join(event).exists() {
                continue;
            }
            match RaplPerf::open(&source, event, socket as u32, core) {
                Ok(sensor) => discovery.admit(sensor),
                Err(problem) => discovery.problems.push(problem),
            }
        }
    }
}

impl RaplPerf {
    fn open(source: &Path, event: &str, socket: u32, core: usize) -> Result<Self> {
        let (scope, part) = match event {
            "energy-ram" => (Scope::Dram { package: socket }, "dram"),
            _ => (Scope::CpuPackage { index: socket }, "package"),
        };
        let name = format!("rapl-perf:{part}-{socket}");
        let failed = |source: std::io::Error| ProfilerError::sensor(&name)(source);
        let mut builder = Dynamic::builder(source).map_err(failed)?;
        builder.event(event).map_err(failed)?;
        let joules_per_count = builder
            .scale()
            .map_err(failed)?
            .ok_or_else(|| ProfilerError::sensor(&name)(format!("event {event} has no scale")))?;
        let dynamic = builder.build().map_err(ProfilerError::sensor(&name))?;
        // A socket's counter belongs to no process and knows no privilege level.
        let counter = Builder::new(dynamic)
            .any_pid()
            .one_cpu(core)
            .include_kernel()
            .include_hv()
            .build()
            .and_then(|mut counter| counter.enable().map(|()| counter));
        let counter = counter.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => ProfilerError::SensorPermission {
                sensor: name.clone(),
                path: source.join("events").join(event),
                remedy: REMEDY.to_owned(),
            },
            _ => ProfilerError::sensor(&name)(error),
        })?;
        let info = SensorInfo {
            name,
            kind: SensorKind::EnergyCounter,
            scope,
            update_period_s: 1e-3,
            resolution_j: joules_per_count,
            range_j: None,
            systematic_relative: 0.05,
            provenance: Provenance::Measured,
            counts_in_total: true,
            description: format!("perf event power/{event}/ on core {core}"),
        };
        Ok(RaplPerf { info, counter, joules_per_count })
    }
}

impl Sensor for RaplPerf {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let count = self.counter.read().map_err(ProfilerError::sensor(&self.info.name))?;
        readings.push(Reading { time_s: clock::now_s(), value: count as f64 * self.joules_per_count });
        Ok(())
    }
}

/// The cores in a list such as `0,24` or `0-1`.
fn first_cores(mask: &str) -> Vec<usize> {
    mask.split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.trim().parse::<usize>().ok()?..=to.trim().parse::<usize>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn core_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(first_cores("0\n"), [0]);
        assert_eq!(first_cores("0,24"), [0, 24]);
        assert_eq!(first_cores("0-1,8"), [0, 1, 8]);
        assert!(first_cores("").is_empty());
    }

    #[test]
    fn an_event_without_a_scale_is_a_problem_and_not_a_sensor() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("bus/event_source/devices/power");
        fs::create_dir_all(source.join("events")).unwrap();
        fs::create_dir_all(source.join("format")).unwrap();
        fs::write(source.join("type"), "23\n").unwrap();
        fs::write(source.join("cpumask"), "0\n").unwrap();
        fs::write(source.join("format/event"), "config:0-7\n").unwrap();
        fs::write(source.join("events/energy-pkg"), "event=0x02\n").unwrap();
        let paths = SearchPaths { sysfs: root.path().into(), ..SearchPaths::default() };
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        assert!(discovery.sensors.is_empty());
        let problem = discovery.problems[0].to_string();
        assert!(problem.contains("rapl-perf:package-0") && problem.contains("no scale"), "{problem}");
    }
}
