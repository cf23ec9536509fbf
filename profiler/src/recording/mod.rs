//! Finished recordings of external meters: what a board draws that cannot measure itself.
//!
//! A recording is power over time and, where the meter has digital inputs, what stood on them. It comes from a CSV log
//! ([`crate::sensor::power_log`]) or from a JLS file of a Joulescope ([`jls`]), told apart by their first bytes.

mod chunk;
pub mod jls;
mod signal;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::clock;
use crate::error::{ProfilerError, Result};
use crate::sensor::power_log::{PowerLog, PowerLogOptions};
use crate::sensor::{Sensor, SensorInfo};
use crate::trace::Trace;

/// Times from here on are seconds since 1970: it was the year 2001.
const FIRST_CALENDAR_TIME_S: f64 = 1e9;

/// Power over time, and digital lines.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The meter.
    pub info: SensorInfo,
    /// Its power, on the time line of [`crate::clock`].
    pub trace: Trace,
    /// Its digital inputs.
    pub lines: Vec<Line>,
}

/// A digital input.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the file.
    pub name: String,
    /// The moments at which it took another level, the first sample's being the first.
    pub changes: Vec<(f64, bool)>,
}

impl Recording {
    /// Reads a recording.
    ///
    /// # Errors
    /// When the file cannot be read or is not what its format asks for; the error names the place.
    pub fn open(path: &Path, options: &PowerLogOptions) -> Result<Self> {
        if is_jls(path)? {
            return jls::read(path, options);
        }
        let mut log = PowerLog::open(path, options)?;
        let (trace, lines) = log.recorded()?;
        Ok(Recording { info: log.info().clone(), trace, lines })
    }

    /// Moves all times by `offset_s`.
    pub fn shift(&mut self, offset_s: f64) {
        self.trace.shift(offset_s);
        let changes = self.lines.iter_mut().flat_map(|line| &mut line.changes);
        changes.for_each(|(time_s, _)| *time_s += offset_s);
    }

    /// The digital input of a name.
    ///
    /// # Errors
    /// [`ProfilerError::Protocol`] with the names that there are.
    pub fn line(&self, name: &str) -> Result<&Line> {
        self.lines.iter().find(|line| line.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            ProfilerError::Protocol(format!("the recording has no digital line `{name}`; it has: {names}"))
        })
    }
}

impl Line {
    /// Notes the level at a moment, later than all before.
    pub(crate) fn push(&mut self, time_s: f64, level: bool) {
        if self.changes.last().is_none_or(|(_, last)| *last != level) {
            self.changes.push((time_s, level));
        }
    }

    /// The level at a moment; low before the first sample.
    pub(crate) fn level(&self, time_s: f64) -> bool {
        let behind = self.changes.partition_point(|(change_s, _)| *change_s <= time_s);
        behind.checked_sub(1).is_some_and(|index| self.changes[index].1)
    }
}

/// Whether a file begins as those of Joulescopes do.
pub(crate) fn is_jls(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(ProfilerError::io(path))?;
    file.take(16).read_to_end(&mut head).map_err(ProfilerError::io(path))?;
    Ok(chunk::is_jls(&head))
}

/// The place on the time line of a meter's time: a calendar time, or one that counts from the start of this process.
pub(crate) fn on_time_line(time_s: f64) -> f64 {
    if time_s >= FIRST_CALENDAR_TIME_S { clock::from_unix_s(time_s) } else { time_s }
}
