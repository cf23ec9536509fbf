//! `joulewise reprice`: the joules of a profile from the recording of an external meter that watched it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_profiler::alignment::align;
use joulewise_profiler::recording::Recording;
use joulewise_profiler::report;
use joulewise_profiler::reprice::reprice;
use joulewise_profiler::sensor::power_log::PowerLogOptions;
use serde::Serialize;

use crate::commands::compare::read;
use crate::{Verdict, numbers, output};

/// Replace the energies of a profile by those of an external meter's recording; windows and times stay.
#[derive(Args)]
pub(crate) struct Reprice {
    /// Folder with a profile.json.
    folder: PathBuf,
    /// The recording: a Joulescope's JLS file, or CSV of time and watts.
    #[arg(long, value_name = "FILE")]
    power_log: PathBuf,
    /// Seconds to add to the recording's clock to get the calendar time of the profiled machine.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = numbers::offset)]
    offset: f64,
    /// Find the offset from the load itself: the profile's windows of load and rest against the recording's power.
    #[arg(long, conflicts_with = "offset")]
    align: bool,
    /// Find the offset by this digital input of the meter, which `profile --marker-line` raised.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["offset", "align"])]
    align_line: Option<String>,
    /// Relative systematic error of the meter.
    #[arg(long, default_value_t = 0.01, value_parser = numbers::relative)]
    systematic: f64,
    /// Folder for the files; the same by default.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Repriced {
    /// Seconds that were added to the recording's clock.
    offset_s: f64,
    /// Correlation of the load with the recording's power, where that told the offset.
    correlation: Option<f64>,
    files: Vec<PathBuf>,
}

impl Reprice {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut profile = read(&self.folder)?;
        let name =
            self.power_log.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let options = PowerLogOptions { name, offset_s: self.offset, systematic_relative: self.systematic };
        let mut recording = Recording::open(&self.power_log, &options)?;
        let mut repriced = Repriced { offset_s: self.offset, correlation: None, files: Vec::new() };
        if self.align || self.align_line.is_some() {
            let alignment = align(&profile, &recording, self.align_line.as_deref())?;
            recording.shift(alignment.offset_s);
            (repriced.offset_s, repriced.correlation) = (alignment.offset_s, Some(alignment.correlation));
            if !self.json {
                output::line(format!(
                    "aligned: {:+.4} s on the recording's clock, correlation with the load {:.3}",
                    alignment.offset_s, alignment.correlation
                ))?;
            }
        }
        reprice(&mut profile, &recording)?;
        repriced.files = report::write(self.out.as_ref().unwrap_or(&self.folder), &profile)?;
        if self.json {
            output::json(&repriced)?;
        } else {
            repriced.files.iter().try_for_each(|file| output::line(format!("wrote {}", file.display())))?;
        }
        Ok(Verdict::Passed)
    }
}
