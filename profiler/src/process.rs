//! What this process used: processor time and memory.

use std::fs;
use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

use crate::memory_limit;

/// Processor time of all threads of this process so far, user and system.
///
/// `None` where the system does not tell.
pub fn cpu_time_s() -> Option<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
}

/// The most memory this process has had in RAM at one time.
///
/// `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    // The kernel's own record; getrusage carries over the peak of the program that started this one.
    if let Some(bytes) = status_bytes("VmHWM:") {
        return Some(bytes);
    }
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    u64::try_from(usage.max_rss()).ok().map(|kibibytes| kibibytes * 1024)
}

/// The memory of this process that is in RAM now.
pub fn memory_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Memory that this process could still take without anything being swapped out or a limit of its control group being met.
pub fn available_memory_bytes() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let of_machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    Some(memory_limit::room_bytes(Path::new("/")).map_or(of_machine, |room| room.min(of_machine)))
}

/// A line of `/proc/self/status`, which the kernel writes in KiB and calls kB.
fn status_bytes(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::Instant;

    #[test]
    fn busy_work_costs_processor_time() {
        let (start, before_s) = (Instant::now(), cpu_time_s().unwrap());
        let mut sum = 0u64;
        while cpu_time_s().unwrap() - before_s < 0.01 {
            sum = black_box(sum.wrapping_add(1));
            assert!(start.elapsed().as_secs() < 60, "a busy loop gained no processor time in a minute");
        }
    }

    #[test]
    fn a_touched_allocation_raises_the_peak() {
        const SIZE: usize = 64 << 20;
        let before = memory_bytes().unwrap();
        let block = black_box(vec![1u8; SIZE]);
        assert!(peak_memory_bytes().unwrap() >= before + (SIZE as u64) * 9 / 10);
        drop(block);
    }
}
