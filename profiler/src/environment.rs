//! The machine a profile was made on, as far as it tells.

use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::ballast::Cache;
use crate::sensor::nvml;

/// What of a machine bears on its figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Model name of the processor.
    pub cpu_model: Option<String>,
    /// Processor architecture of this program.
    pub architecture: String,
    /// Cores this process may run on.
    pub n_cores: usize,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Kernel name and release.
    pub kernel: Option<String>,
    /// Frequency governor of the first core.
    pub governor: Option<String>,
    /// Highest clock that the governor allows.
    pub max_clock_hz: Option<f64>,
    /// Whether this is a virtual machine, where the processor says so.
    pub is_virtual: Option<bool>,
    /// Load of the machine over the last minute, in busy cores, before anything was measured.
    pub load_average: Option<f64>,
    /// GPUs that NVML knows: model, and the name that no other board has.
    #[serde(default)]
    pub gpus: Vec<String>,
}

impl Environment {
    /// Reads this machine.
    pub fn read() -> Self {
        Environment { gpus: nvml::boards(), ..Environment::read_below(Path::new("/")) }
    }

    /// Reads the `proc` and `sys` trees below `root`.
    fn read_below(root: &Path) -> Self {
        let file = |path: &str| fs::read_to_string(root.join(path)).ok();
        let cpuinfo = file("proc/cpuinfo").unwrap_or_default();
        let board = file("proc/device-tree/model").map(|text| text.trim_end_matches('\0').trim().to_owned());
        let cpufreq = "sys/devices/system/cpu/cpu0/cpufreq";
        Environment {
            cpu_model: cpuinfo_field(&cpuinfo, "model name").or(board),
            architecture: std::env::consts::ARCH.to_owned(),
            n_cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: file("proc/meminfo").as_deref().and_then(total_memory_bytes),
            kernel: uname().ok().map(|name| {
                format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
            }),
            governor: file(&format!("{cpufreq}/scaling_governor")).map(|text| text.trim().to_owned()),
            max_clock_hz: file(&format!("{cpufreq}/scaling_max_freq"))
                .and_then(|text| text.trim().parse::<f64>().ok())
                .map(|kilohertz| kilohertz * 1e3),
            is_virtual: cpuinfo_field(&cpuinfo, "flags")
                .map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            load_average: file("proc/loadavg")
                .and_then(|text| text.split_whitespace().next().and_then(|load| load.parse().ok())),
            gpus: Vec::new(),
        }
    }
}

/// The processor's second and third cache. The second is each core's own, and a program that uses all cores has all of
/// them; the third of a virtual machine is its neighbours', too.
pub fn caches() -> Vec<Cache> {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    caches_below(Path::new("/"), n_cores as u64)
}

fn caches_below(root: &Path, n_cores: u64) -> Vec<Cache> {
    let is_virtual = Environment::read_below(root).is_virtual.unwrap_or(false);
    let caches = root.join("sys/devices/system/cpu/cpu0/cache");
    let cache = |index: u32| {
        let file = |name: &str| fs::read_to_string(caches.join(format!("index{index}/{name}"))).ok();
        let (level, size) = (file("level")?, file("size")?);
        let bytes = match size.trim().strip_suffix('K') {
            Some(kibibytes) => kibibytes.parse::<u64>().ok()? << 10,
            None => size.trim().strip_suffix('M')?.parse::<u64>().ok()? << 20,
        };
        match level.trim() {
            "2" => Some(Cache { size_bytes: bytes * n_cores, is_shared: false }),
            "3" => Some(Cache { size_bytes: bytes, is_shared: is_virtual }),
            _ => None,
        }
    };
    (0..8).filter_map(cache).collect()
}

/// The value of the first line `key : value`.
fn cpuinfo_field(cpuinfo: &str, key: &str) -> Option<String> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

fn total_memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_a_board_are_read_from_their_trees() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor avx2\n",
        );
        write("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\n");
        write("proc/loadavg", "0.25 0.1 0.1 1/100 42\n");
        write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
        write("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "2400000\n");
        let server = Environment::read_below(root.path());
        assert_eq!(server.cpu_model.as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(server.memory_bytes, Some(1_024_000));
        assert_eq!(server.governor.as_deref(), Some("performance"));
        assert_eq!(server.max_clock_hz, Some(2.4e9));
        assert_eq!(server.is_virtual, Some(true));
        assert_eq!(server.load_average, Some(0.25));

        for (index, level, size) in [(0, "1", "32K"), (1, "2", "2M"), (2, "3", "36608K")] {
            write(&format!("sys/devices/system/cpu/cpu0/cache/index{index}/level"), level);
            write(&format!("sys/devices/system/cpu/cpu0/cache/index{index}/size"), size);
        }
        let second = Cache { size_bytes: 8 << 20, is_shared: false };
        let third = Cache { size_bytes: 36608 << 10, is_shared: true };
        assert_eq!(caches_below(root.path(), 4), [second, third]);

        write("proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00\n");
        write("proc/device-tree/model", "Some Board 5\0");
        let board = Environment::read_below(root.path());
        assert_eq!(board.cpu_model.as_deref(), Some("Some Board 5"));
        assert_eq!(board.is_virtual, None);
        assert!(caches_below(root.path(), 4).iter().all(|cache| !cache.is_shared));
    }
}
