//! Which machine, which commit, and who else was busy: what a recorded number needs beside it.

use std::fs::read_to_string;
use std::process::Command;

/// The circumstances of a measurement.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Last-level cache, as the system prints it.
    pub last_level_cache: String,
    /// Commit of the checkout, `+` when files differ from it.
    pub commit: String,
    /// Mean number of runnable processes over the last minute, before the measurement began.
    pub load: String,
}

impl Machine {
    /// This machine, now. What the system does not tell is `unknown`.
    pub fn here() -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cache = read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size");
        let load = read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: field("model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            last_level_cache: cache.map_or_else(|_| unknown(), |size| size.trim().to_owned()),
            commit: commit().unwrap_or_else(unknown),
            load: load.split_whitespace().next().map_or_else(unknown, str::to_owned),
        }
    }

    /// One line for the head of a table.
    pub fn describe(&self) -> String {
        let Self { processor, cores, last_level_cache, commit, load } = self;
        format!(
            "{processor}, {cores} cores, {last_level_cache} last-level cache; commit {commit}; load {load}"
        )
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { hash } else { hash + "+" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_cores() {
        assert!(Machine::here().cores >= 1);
    }
}
