//! What about the machine speaks against a trial: other processes, stolen time, throttling, falling clocks.
//!
//! The machine is looked at before and after each window, never within. What speaks against a trial is a flag on its
//! window and a line in the report; no trial is dropped for it, since dropping what looks bad is how figures get
//! better than the machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::meter::MeteredDevice;
use crate::process;
use crate::sensor::nvml;

/// Processor time of others, in busy cores, from which on a trial is flagged.
const FOREIGN_CORES: f64 = 0.25;
/// Share of the time that a hypervisor took away.
const STOLEN_SHARE: f64 = 0.02;
/// Share of the clock before a trial below which it has fallen.
const CLOCK_SHARE: f64 = 0.9;
/// Processor time is counted in hundredths of a second: shorter windows tell nothing of others.
const SHORTEST_S: f64 = 0.1;
/// Unit of `/proc/stat`, the same on every Linux that this runs on.
const TICK_S: f64 = 0.01;

/// What a GPU says whose clock is held down to keep to its power limit.
pub(crate) const AT_POWER_CAP: &str = "the GPU was at its power cap";

/// Looks at a machine.
#[derive(Clone, Debug)]
pub struct Watch {
    root: PathBuf,
}

/// The machine at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Time of the look.
    pub time_s: f64,
    /// Processor time of all processes so far.
    pub busy_s: Option<f64>,
    /// Processor time that a hypervisor gave to others.
    pub stolen_s: Option<f64>,
    /// Processor time of this process.
    pub own_s: Option<f64>,
    /// How often cores were throttled for their temperature.
    pub throttled: Option<f64>,
    /// Clock of the device: of the first core, or of a GPU's multiprocessors.
    pub clock_hz: Option<f64>,
    /// Temperature of the device.
    pub temperature_c: Option<f64>,
    /// What a GPU says against itself.
    pub gpu: Vec<String>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { root: PathBuf::from("/") }
    }
}

impl Watch {
    /// A look at the `proc` and `sys` trees below another root.
    pub fn below(root: &Path) -> Self {
        Watch { root: root.to_owned() }
    }

    /// Looks.
    pub fn look(&self, device: MeteredDevice, time_s: f64) -> Look {
        let file = |path: &str| fs::read_to_string(self.root.join(path)).ok();
        let number = |path: &str| file(path)?.trim().parse::<f64>().ok();
        let ticks: Vec<f64> = file("proc/stat")
            .and_then(|stat| stat.lines().next().map(str::to_owned))
            .iter()
            .flat_map(|line| line.split_whitespace().skip(1))
            .filter_map(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal
        let at = |index: usize| ticks.get(index).map(|ticks| ticks * TICK_S);
        let busy = [0, 1, 2, 5, 6].map(at).into_iter().sum::<Option<f64>>();
        let cpu = "sys/devices/system/cpu/cpu0";
        let mut look =
            Look { time_s, busy_s: busy, stolen_s: at(7), own_s: process::cpu_time_s(), ..Look::default() };
        match device {
            MeteredDevice::Cpu => {
                look.throttled = number(&format!("{cpu}/thermal_throttle/core_throttle_count"));
                // In kHz.
                look.clock_hz = number(&format!("{cpu}/cpufreq/scaling_cur_freq")).map(|khz| khz * 1e3);
                let zones =
                    (0..16).filter_map(|zone| number(&format!("sys/class/thermal/thermal_zone{zone}/temp")));
                look.temperature_c = zones.reduce(f64::max).map(|milli| milli * 1e-3);
            }
            MeteredDevice::Gpu { index } => {
                if let Some(state) = nvml::state(index) {
                    look.temperature_c = state.temperature_c;
                    look.clock_hz = state.clock_hz;
                    look.gpu = state.complaints;
                }
            }
        }
        look
    }
}

impl Look {
    /// What happened between an earlier look and this one that speaks against the time between them.
    pub fn flags_since(&self, earlier: &Look) -> Vec<String> {
        let mut flags = Vec::new();
        let duration_s = self.time_s - earlier.time_s;
        let since = |now: Option<f64>, before: Option<f64>| now.zip(before).map(|(now, before)| now - before);
        if duration_s >= SHORTEST_S {
            let busy_s = since(self.busy_s, earlier.busy_s);
            let foreign = busy_s.zip(since(self.own_s, earlier.own_s)).map(|(busy_s, own_s)| {
                // The machine's count is of ticks that found a core busy: a sample, whose standard deviation is at most
                // half the root of their number, and both ends are known to a tick.
                let doubt_s = TICK_S * (2.0 + 3.0 * 0.5 * (busy_s / TICK_S).max(0.0).sqrt());
                (busy_s - own_s - doubt_s) / duration_s
            });
            if foreign.is_some_and(|cores| cores > FOREIGN_CORES) {
                flags.push(format!("other processes kept more than {FOREIGN_CORES} cores busy"));
            }
            let stolen =
                since(self.stolen_s, earlier.stolen_s).map(|stolen_s| (stolen_s - 2.0 * TICK_S) / duration_s);
            if stolen.is_some_and(|share| share > STOLEN_SHARE) {
                flags.push("the hypervisor gave processor time to others".to_owned());
            }
        }
        if self.throttled.zip(earlier.throttled).is_some_and(|(now, before)| now > before) {
            flags.push("the processor was throttled for its temperature".to_owned());
        }
        if self.clock_hz.zip(earlier.clock_hz).is_some_and(|(now, before)| now < CLOCK_SHARE * before) {
            flags.push(format!("the clock fell below {:.0} % of what it was before", 100.0 * CLOCK_SHARE));
        }
        flags.extend(earlier.gpu.iter().chain(&self.gpu).cloned());
        flags.sort();
        flags.dedup();
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_and_throttling_are_seen_in_the_trees() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let watch = Watch::below(root.path());
        let cpu = "sys/devices/system/cpu/cpu0";
        write("proc/stat", "cpu  100 0 100 900 0 0 0 50 0 0\ncpu0 1 1 1 1\n");
        write(&format!("{cpu}/thermal_throttle/core_throttle_count"), "7\n");
        write(&format!("{cpu}/cpufreq/scaling_cur_freq"), "3000000\n");
        write("sys/class/thermal/thermal_zone0/temp", "45000\n");
        let mut before = watch.look(MeteredDevice::Cpu, 10.0);
        before.own_s = Some(1.0);
        assert_eq!(
            (before.busy_s, before.stolen_s, before.temperature_c),
            (Some(2.0), Some(0.5), Some(45.0))
        );
        // One second later: a second of processor time, all of it our own.
        write("proc/stat", "cpu  150 0 150 900 0 0 0 50 0 0\n");
        let mut after = watch.look(MeteredDevice::Cpu, 11.0);
        after.own_s = Some(2.0);
        assert!(after.flags_since(&before).is_empty());
        // The same with half of it other people's, a tenth stolen, throttled and slow.
        write("proc/stat", "cpu  150 0 150 900 0 0 0 60 0 0\n");
        write(&format!("{cpu}/thermal_throttle/core_throttle_count"), "8\n");
        write(&format!("{cpu}/cpufreq/scaling_cur_freq"), "2000000\n");
        let mut after = watch.look(MeteredDevice::Cpu, 11.0);
        after.own_s = Some(1.5);
        assert_eq!(after.flags_since(&before).len(), 4);
        // Nothing is said of what the machine does not tell.
        assert!(Look::default().flags_since(&Look::default()).is_empty());
    }
}
