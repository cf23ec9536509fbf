//! Logs of an external meter: CSV with times and watts, Joulescope exports included.
//!
//! Scope: whatever the user put behind the meter. Provenance: measured. Systematic term: the meter's own, 1 % unless
//! told. The file may be complete or still growing: rows are taken in as they appear.
//!
//! # Format
//! Separated by commas, semicolons or tabs. With a header, columns are found by name, in any order:
//! `time` (also `timestamp`, `t`, `seconds`, `elapsed`, `utc`), `watts` (`power`, `p`, `w`), or else `volts`
//! (`voltage`, `v`) and `amps` (`current`, `i`, `a`), whose product is the power. A unit may follow the name as in
//! `time (ms)` or `power_mw`. A column `marker`, `gpi0` or `trigger` is a digital input, low where it is 0. Other columns are ignored, lines that begin with `#` too, unless they are the header:
//! Joulescope's statistics files begin with `#time,current,voltage,power,charge,energy`. Without a header the columns
//! are time in seconds and watts.
//!
//! # Time
//! Times from 10^9 s on are calendar times (seconds since 1970, UTC). Smaller ones count from the start of this
//! process. An offset is added first: some seconds for a meter whose clock runs apart, or, for a log that counts from
//! its own begin, the calendar time of that begin.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Reading, Scope, Sensor, SensorInfo, SensorKind};
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::recording::{self, Line, on_time_line};
use crate::trace::Trace;

/// How to read a power log.
#[derive(Clone, Debug)]
pub struct PowerLogOptions {
    /// Name of the meter in reports.
    pub name: String,
    /// Added to every time of the log.
    pub offset_s: f64,
    /// The meter's systematic error.
    pub systematic_relative: f64,
}

impl Default for PowerLogOptions {
    fn default() -> Self {
        PowerLogOptions { name: "power log".to_owned(), offset_s: 0.0, systematic_relative: 0.01 }
    }
}

/// A power log, read as it grows.
pub struct PowerLog {
    info: SensorInfo,
    path: PathBuf,
    offset_s: f64,
    /// Bytes and lines taken in so far.
    read_bytes: u64,
    read_lines: u64,
    columns: Option<Columns>,
    lines: Vec<Line>,
    last_time_s: f64,
    /// Rows taken in when the file was opened, for the first call of `read`.
    pending: Vec<Reading>,
}

impl PowerLog {
    /// Opens a log and takes in the rows that are there.
    ///
    /// # Errors
    /// When the file cannot be read, a row is malformed (the error names file and line), or there is neither a header
    /// nor a row.
    pub fn open(path: &Path, options: &PowerLogOptions) -> Result<Self> {
        if recording::is_jls(path)? {
            return Err(ProfilerError::Protocol(format!(
                "{} is a JLS file, which is written in blocks: profile without it, then `joulewise reprice`",
                path.display()
            )));
        }
        let info = SensorInfo {
            name: options.name.clone(),
            kind: SensorKind::Power,
            scope: Scope::External { name: options.name.clone() },
            update_period_s: 0.5,
            resolution_j: 0.0,
            range_j: None,
            systematic_relative: options.systematic_relative,
            provenance: Provenance::Measured,
            counts_in_total: true,
            description: format!("power log {}", path.display()),
        };
        let mut log = PowerLog {
            info,
            path: path.to_owned(),
            offset_s: options.offset_s,
            read_bytes: 0,
            read_lines: 0,
            columns: None,
            lines: Vec::new(),
            last_time_s: f64::NEG_INFINITY,
            pending: Vec::new(),
        };
        let mut rows = Vec::new();
        log.take_in(&mut rows)?;
        if log.columns.is_none() {
            return Err(ProfilerError::EmptyFile {
                path: log.path,
                expected: "a header or rows of time and watts".to_owned(),
            });
        }
        let mut spacings: Vec<f64> = rows.windows(2).map(|pair| pair[1].time_s - pair[0].time_s).collect();
        spacings.sort_by(f64::total_cmp);
        if let Some(&median_s) = spacings.get(spacings.len() / 2) {
            log.info.update_period_s = median_s;
        }
        log.pending = rows;
        Ok(log)
    }

    /// All rows of a finished log as a trace, to integrate it without sampling, and its digital lines.
    ///
    /// # Errors
    /// As [`Sensor::read`].
    pub(crate) fn recorded(&mut self) -> Result<(Trace, Vec<Line>)> {
        let mut readings = Vec::new();
        self.read(&mut readings)?;
        // A finished file may lack the end of its last line.
        let rest = self.rest()?;
        self.read_bytes += rest.len() as u64;
        self.read_lines += 1;
        self.take_line(rest.trim(), &mut readings)?;
        let mut trace = Trace::new(&self.info);
        readings.into_iter().for_each(|reading| trace.push(reading));
        Ok((trace, std::mem::take(&mut self.lines)))
    }

    /// What the file has gained since the last complete line.
    fn rest(&self) -> Result<String> {
        let mut file = File::open(&self.path).map_err(ProfilerError::io(&self.path))?;
        file.seek(SeekFrom::Start(self.read_bytes)).map_err(ProfilerError::io(&self.path))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(ProfilerError::io(&self.path))?;
        Ok(text)
    }

    /// Appends the complete lines that the file has gained.
    fn take_in(&mut self, rows: &mut Vec<Reading>) -> Result<()> {
        let text = self.rest()?;
        // A last line without its end may still be in writing.
        let complete = match text.rfind('\n') {
            Some(end) => &text[..=end],
            None => "",
        };
        for line in complete.lines() {
            self.read_lines += 1;
            self.take_line(line.trim(), rows)?;
        }
        self.read_bytes += complete.len() as u64;
        Ok(())
    }

    fn take_line(&mut self, line: &str, rows: &mut Vec<Reading>) -> Result<()> {
        let Some(columns) = &self.columns else {
            if let Some(columns) = Columns::of_header(line) {
                let line = |(name, _): &(String, usize)| Line { name: name.clone(), changes: Vec::new() };
                self.lines = columns.lines.iter().map(line).collect();
                self.columns = Some(columns);
            } else if !line.is_empty() && !line.starts_with('#') {
                self.columns = Some(Columns::without_header(line));
                return self.take_line(line, rows);
            }
            return Ok(());
        };
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (time_s, value) = columns.parse(line).map_err(|(expected, got)| self.malformed(expected, got))?;
        let levels = columns.levels(line);
        let time_s = on_time_line(time_s + self.offset_s);
        if time_s <= self.last_time_s {
            return Err(self.malformed("a time after that of the row before", line));
        }
        self.last_time_s = time_s;
        self.lines.iter_mut().zip(levels).for_each(|(line, level)| line.push(time_s, level));
        rows.push(Reading { time_s, value });
        Ok(())
    }

    fn malformed(&self, expected: &str, got: &str) -> ProfilerError {
        ProfilerError::Malformed {
            path: self.path.clone(),
            line: self.read_lines,
            expected: expected.to_owned(),
            got: format!("`{got}`"),
        }
    }
}

impl Sensor for PowerLog {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        readings.append(&mut self.pending);
        self.take_in(readings)
    }
}

/// Where the numbers of a row stand, with the factors to SI units.
struct Columns {
    separator: char,
    time: (usize, f64),
    power: PowerColumns,
    /// Names and places of digital inputs.
    lines: Vec<(String, usize)>,
}

enum PowerColumns {
    Watts((usize, f64)),
    VoltsTimesAmps((usize, f64), (usize, f64)),
}

impl Columns {
    fn of_header(line: &str) -> Option<Self> {
        let separator = separator(line);
        let names: Vec<Vec<String>> = line.split(separator).map(words).collect();
        let find = |quantities: &[&str], units: &[(&str, f64)]| {
            let is_asked =
                |words: &Vec<String>| words.first().is_some_and(|w| quantities.contains(&w.as_str()));
            let index = names.iter().position(is_asked)?;
            let unit = names[index].last();
            let known = units.iter().find(|(name, _)| unit.is_some_and(|unit| unit == name));
            Some((index, known.map_or(1.0, |(_, factor)| *factor)))
        };
        let time = find(
            &["time", "timestamp", "t", "seconds", "elapsed", "utc"],
            &[("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)],
        )?;
        let watts = find(&["watts", "power", "p", "w"], &[("mw", 1e-3), ("uw", 1e-6), ("kw", 1e3)]);
        let volts = find(&["volts", "voltage", "v"], &[("mv", 1e-3)]);
        let amps = find(&["amps", "current", "i", "a"], &[("ma", 1e-3), ("ua", 1e-6)]);
        let power = match (watts, volts, amps) {
            (Some(watts), _, _) => PowerColumns::Watts(watts),
            (None, Some(volts), Some(amps)) => PowerColumns::VoltsTimesAmps(volts, amps),
            _ => return None,
        };
        let is_line = |words: &[String]| {
            words.first().is_some_and(|word| {
                let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
                ["marker", "gpi", "trigger"].contains(&word)
            })
        };
        let lines = names.iter().enumerate().filter(|(_, words)| is_line(words));
        let lines = lines.map(|(index, words)| (words.concat(), index)).collect();
        Some(Columns { separator, time, power, lines })
    }

    /// Time in seconds and watts, in this order.
    fn without_header(line: &str) -> Self {
        let power = PowerColumns::Watts((1, 1.0));
        Columns { separator: separator(line), time: (0, 1.0), power, lines: Vec::new() }
    }

    /// The levels of the digital inputs in a row.
    fn levels(&self, line: &str) -> Vec<bool> {
        let fields: Vec<&str> = line.split(self.separator).map(str::trim).collect();
        let is_high =
            |field: &&str| !["0", "0.0", "", "false", "low"].contains(&field.to_lowercase().as_str());
        self.lines.iter().map(|(_, index)| fields.get(*index).is_some_and(is_high)).collect()
    }

    /// Time and power of a row, or what was expected and what was there.
    fn parse<'a>(&self, line: &'a str) -> Result<(f64, f64), (&'static str, &'a str)> {
        let fields: Vec<&str> =
            line.split(self.separator).map(|field| field.trim().trim_matches('"')).collect();
        let number = |(index, factor): (usize, f64), expected| {
            let field = fields.get(index).copied().ok_or((expected, line))?;
            let value: Option<f64> = field.parse().ok();
            value.filter(|value| value.is_finite()).map(|value| value * factor).ok_or((expected, field))
        };
        let time_s = number(self.time, "a number of seconds")?;
        let power_w = match self.power {
            PowerColumns::Watts(watts) => number(watts, "a number of watts")?,
            PowerColumns::VoltsTimesAmps(volts, amps) => {
                number(volts, "a number of volts")? * number(amps, "a number of amperes")?
            }
        };
        Ok((time_s, power_w))
    }
}

/// The separator of a line: the first of tab, semicolon and comma that it has.
fn separator(line: &str) -> char {
    ['\t', ';'].into_iter().find(|&separator| line.contains(separator)).unwrap_or(',')
}

/// The words of a column name, in lower case: quantity first, unit last.
fn words(name: &str) -> Vec<String> {
    name.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::trace::WindowEnergy;
    use proptest::prelude::*;
    use std::fs;
    use std::io::Write;

    fn log(text: &str) -> (tempfile::TempDir, Result<PowerLog>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log.csv");
        fs::write(&path, text).unwrap();
        let log = PowerLog::open(&path, &PowerLogOptions::default());
        (root, log)
    }

    fn energy_j(text: &str, start_s: f64, end_s: f64) -> f64 {
        let (_root, log) = log(text);
        match log.unwrap().recorded().unwrap().0.energy(start_s, end_s) {
            WindowEnergy::Resolved { energy_j, .. } => energy_j,
            WindowEnergy::Unresolved { reason, .. } => panic!("{reason}"),
        }
    }

    #[test]
    fn a_triangle_of_power_has_the_energy_of_its_area() {
        // 0 W -> 10 W -> 0 W over 4 s: 20 J in all, 15 J between 1 s and 3 s, and with 2.5 W and 7.5 W at the ends
        // (7.5 + 10) / 2 * 0.5 = 4.375 J between 1.5 s and 2 s.
        let text = "time,watts\n0,0\n1,5\n2,10\n3,5\n4,0\n";
        assert!((energy_j(text, 0.0, 4.0) - 20.0).abs() < 1e-12);
        assert!((energy_j(text, 1.0, 3.0) - 15.0).abs() < 1e-12);
        let text = "time,watts\n0,0\n1.9,9.5\n2,10\n4,0\n";
        assert!((energy_j(text, 1.5, 2.0) - 4.375).abs() < 1e-12);
    }

    #[test]
    fn formats_of_meters_are_told_by_their_headers() {
        // Each is 2 W for 2 s.
        for text in [
            "0,2\n1,2\n2,2",
            "time,watts,volts,amps\n0,2,5,0.4\n1,2,5,0.4\n2,2,5,0.4\n",
            "#time,current,voltage,power,charge,energy\n0,0.4,5,2,0,0\n1,0.4,5,2,0.4,2\n2,0.4,5,2,0.8,4\n",
            "# a remark\nTime (ms);Power [mW]\n0;2000\n1000;2000\n2000;2000\n",
            "timestamp_s\tvoltage_v\tcurrent_ma\n0\t5\t400\n1\t5\t400\n2\t5\t400\n",
        ] {
            assert!((energy_j(text, 0.0, 2.0) - 4.0).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn calendar_times_land_on_the_time_line() {
        let start_s = clock::now_s();
        let unix_s = clock::to_unix_s(start_s);
        let text = format!("time,watts\n{},3\n{},3\n{},3\n", unix_s - 1.0, unix_s + 1.0, unix_s + 3.0);
        // Times near 2^31 s are written and read to 2^-22 s; 3 W times twice that.
        assert!((energy_j(&text, start_s, start_s + 2.0) - 6.0).abs() < 3.0 * 2.0 * 5e-7);
    }

    #[test]
    fn an_offset_can_be_the_calendar_time_of_the_logs_begin() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log.csv");
        fs::write(&path, "0,3\n1,3\n2,3\n").unwrap();
        let start_s = clock::now_s();
        let options = PowerLogOptions { offset_s: clock::to_unix_s(start_s), ..PowerLogOptions::default() };
        let trace = PowerLog::open(&path, &options).unwrap().recorded().unwrap().0;
        // Calendar times are good to 2^-22 s.
        assert!((trace.last_time_s().unwrap() - (start_s + 2.0)).abs() < 5e-7);
    }

    #[test]
    fn malformed_rows_name_file_and_line() {
        for (text, line, what) in [
            ("time,watts\n0,1\n1,abc\n", 3, "watts, got `abc`"),
            ("time,watts\n0,1\n1\n", 3, "watts, got `1`"),
            ("time,watts\n0,1\nnan,2\n", 3, "seconds, got `nan`"),
            ("0,1\n2,1\n1,1\n", 3, "a time after"),
            ("x,y\n0,1\n", 1, "seconds, got `x`"),
        ] {
            let (_root, log) = log(text);
            let error = log.err().unwrap().to_string();
            assert!(error.contains(&format!("log.csv:{line}:")) && error.contains(what), "{error}");
        }
        assert!(log("").1.err().unwrap().to_string().contains("holds no data"));
    }

    #[test]
    fn a_growing_file_is_followed_and_half_a_line_is_left_alone() {
        let (root, opened) = log("time,watts\n0,1\n1,1\n");
        let mut opened = opened.unwrap();
        let mut readings = Vec::new();
        opened.read(&mut readings).unwrap();
        assert_eq!(readings.len(), 2);
        let mut file = fs::OpenOptions::new().append(true).open(root.path().join("log.csv")).unwrap();
        file.write_all(b"2,1\n3,").unwrap();
        opened.read(&mut readings).unwrap();
        assert_eq!(readings.len(), 3);
        file.write_all(b"7\n").unwrap();
        opened.read(&mut readings).unwrap();
        assert_eq!(readings[3], Reading { time_s: 3.0, value: 7.0 });
    }

    #[test]
    fn windows_beside_the_log_are_unresolved() {
        let (_root, log) = log("time,watts\n10,1\n11,1\n12,1\n");
        let trace = log.unwrap().recorded().unwrap().0;
        for (start_s, end_s) in [(9.0, 11.0), (11.0, 20.0), (30.0, 31.0), (10.2, 10.4)] {
            assert!(matches!(trace.energy(start_s, end_s), WindowEnergy::Unresolved { .. }), "{start_s}");
        }
    }

    proptest! {
        /// Two adjoining windows hold together what the window around both holds, for any log.
        #[test]
        fn windows_add_up(
            rows in prop::collection::vec((0.01..2.0_f64, 0.0..100.0_f64), 6..40),
            cut in 0.2..0.8_f64,
        ) {
            let mut text = "time,watts\n".to_owned();
            let mut time_s = 0.0;
            for (step_s, power_w) in &rows {
                text += &format!("{time_s},{power_w}\n");
                time_s += step_s;
            }
            let last_s = time_s - rows.last().unwrap().0;
            let (_root, log) = log(&text);
            let trace = log.unwrap().recorded().unwrap().0;
            let middle_s = last_s * cut;
            if let (
                WindowEnergy::Resolved { energy_j: left_j, .. },
                WindowEnergy::Resolved { energy_j: right_j, .. },
                WindowEnergy::Resolved { energy_j: whole_j, .. },
            ) = (trace.energy(0.0, middle_s), trace.energy(middle_s, last_s), trace.energy(0.0, last_s)) {
                // At most 80 products and sums of up to 8,000 J, each right to 2^-53.
                prop_assert!((left_j + right_j - whole_j).abs() < 80.0 * 8000.0 * 2.0 * f64::EPSILON);
            }
        }

        /// Any text is a log or an error, and an error names the file.
        #[test]
        fn any_text_is_survived(text in "[0-9a-z,;.#\n-]{0,120}") {
            let (_root, log) = log(&text);
            if let Err(error) = log {
                prop_assert!(error.to_string().contains("log.csv"));
            }
        }
    }
}
