//! The energy meter that commands measure with.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_profiler::meter::EnergyMeter;
use joulewise_profiler::sensor::power_log::{PowerLog, PowerLogOptions};
use joulewise_profiler::sensor::{SearchPaths, discover};

use crate::{numbers, output};

/// Where energy figures come from.
#[derive(Args, Clone)]
pub(crate) struct MeterOptions {
    /// A power log (CSV: time and watts, or a Joulescope export) that an external meter writes meanwhile; it outranks
    /// the machine's own sensors.
    #[arg(long)]
    power_log: Option<PathBuf>,
    /// Seconds to add to the log's clock to get this machine's.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, requires = "power_log", value_parser = numbers::offset)]
    power_log_offset: f64,
}

/// Starts the meter over everything that measures here.
///
/// # Errors
/// When a power log was named and cannot be read.
pub(crate) fn start(options: &MeterOptions) -> Result<EnergyMeter> {
    let mut discovery = discover(&SearchPaths::default());
    for problem in &discovery.problems {
        output::note(format!("note: {problem}"));
    }
    if let Some(path) = &options.power_log {
        let log = PowerLogOptions { offset_s: options.power_log_offset, ..PowerLogOptions::default() };
        discovery.sensors.push(Box::new(PowerLog::open(path, &log)?));
    }
    Ok(EnergyMeter::start(discovery.sensors))
}
