//! `joulewise reprice`: the joules of a profile from the log of an external meter that watched it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_profiler::report;
use joulewise_profiler::reprice::{align, reprice};
use joulewise_profiler::sensor::power_log::{PowerLog, PowerLogOptions};

use crate::commands::compare::read;
use crate::{Verdict, output};

/// Replace the energies of a profile by those of a meter's log; windows and times stay.
#[derive(Args)]
pub(crate) struct Reprice {
    /// Folder with a profile.json.
    folder: PathBuf,
    /// The log: CSV of time and watts, or a Joulescope export.
    #[arg(long, value_name = "FILE")]
    power_log: PathBuf,
    /// Seconds to add to the log's clock to get the calendar time of the profiled machine.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    offset: f64,
    /// Find the offset from the load itself: the profile's windows of load and rest against the log's power.
    #[arg(long, conflicts_with = "offset")]
    align: bool,
    /// Relative systematic error of the meter.
    #[arg(long, default_value_t = 0.01)]
    systematic: f64,
    /// Folder for the files; the same by default.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Reprice {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut profile = read(&self.folder)?;
        let name =
            self.power_log.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let open = |offset_s: f64| {
            let options =
                PowerLogOptions { name: name.clone(), offset_s, systematic_relative: self.systematic };
            PowerLog::open(&self.power_log, &options)
        };
        let offset_s = if self.align {
            let alignment = align(&profile, &mut open(0.0)?)?;
            output::line(format!(
                "aligned: {:+.3} s on the log's clock, correlation of power and load {:.3}",
                alignment.offset_s, alignment.correlation
            ))?;
            alignment.offset_s
        } else {
            self.offset
        };
        reprice(&mut profile, &mut open(offset_s)?)?;
        for file in report::write(self.out.as_ref().unwrap_or(&self.folder), &profile)? {
            output::line(format!("wrote {}", file.display()))?;
        }
        Ok(Verdict::Passed)
    }
}
