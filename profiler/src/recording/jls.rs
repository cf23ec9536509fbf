//! JLS files of Joulescope instruments (second generation, as the Joulescope UI and `pyjls` write them).
//!
//! Of a file's signals, power is the one in watts, else the product of those in volts and amperes; signals of one bit are
//! digital lines. Samples are averaged down to at most 2,000 readings a second, which leaves the energy as it is. Chunks
//! of small samples that the writer left out because nothing changed within them are taken from the summaries. Samples
//! that were dropped (missing, or NaN) are a gap: windows that touch it are lost, not guessed.
//!
//! Samples become times by the file's own pairs of sample and UTC, straight lines between them; without any, they count
//! from the first sample on, and [`crate::alignment::align`] finds where that was.

use std::fs::File;
use std::path::Path;

use super::chunk::ChunkReader;
use super::signal::{Run, Runs, Signal, survey};
use super::{Line, Recording, on_time_line};
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::sensor::power_log::PowerLogOptions;
use crate::sensor::{Reading, Scope, SensorInfo, SensorKind};
use crate::trace::Trace;

/// Readings a second that are kept.
const READINGS_PER_S: f64 = 2000.0;

/// Reads a recording.
///
/// # Errors
/// When the file cannot be read, is damaged, or has no power in it.
pub fn read(path: &Path, options: &PowerLogOptions) -> Result<Recording> {
    let file = File::open(path).map_err(ProfilerError::io(path))?;
    let signals = survey(&mut ChunkReader::new(path, file)?)?;
    let nothing = |expected: &str| ProfilerError::EmptyFile { path: path.into(), expected: expected.into() };
    let of_unit = |unit: &str| signals.iter().find(|signal| signal.unit == unit && signal.has_samples());
    let factors = match (of_unit("W"), of_unit("V"), of_unit("A")) {
        (Some(power), ..) => vec![power],
        (None, Some(volts), Some(amperes)) if volts.rate_hz == amperes.rate_hz => vec![volts, amperes],
        _ => return Err(nothing("a signal in W, or signals in V and A of one rate")),
    };
    let first = factors[0];
    let samples = (first.rate_hz / READINGS_PER_S).ceil().max(1.0);
    let names: Vec<&str> = factors.iter().map(|signal| signal.name.as_str()).collect();
    let info = SensorInfo {
        name: options.name.clone(),
        kind: SensorKind::Power,
        scope: Scope::External { name: options.name.clone() },
        update_period_s: samples / first.rate_hz,
        resolution_j: 0.0,
        range_j: None,
        systematic_relative: options.systematic_relative,
        provenance: Provenance::Measured,
        counts_in_total: true,
        description: format!(
            "JLS recording {}: {} at {} Hz",
            path.display(),
            names.join(" x "),
            first.rate_hz
        ),
    };
    let mut runs = factors.iter().map(|signal| signal.runs(path)).collect::<Result<Vec<_>>>()?;
    let times = Times::of(first, &signals, options.offset_s);
    let mut readings = Readings::new(times, samples as i64, Trace::new(&info));
    while let Some(run) = product(&mut runs)? {
        readings.take(&run);
    }
    let trace = readings.finish();
    if trace.points().is_empty() {
        return Err(nothing("samples of power"));
    }
    let digital = signals.iter().filter(|signal| signal.is_digital() && signal.has_samples());
    let line = |signal: &Signal| -> Result<Line> {
        let times = Times::of(signal, &signals, options.offset_s);
        let mut line = Line { name: signal.name.clone(), changes: Vec::new() };
        let mut runs = signal.runs(path)?;
        while let Some(run) = runs.next()? {
            line.push(times.at(run.first as f64), run.value >= 0.5);
        }
        Ok(line)
    };
    Ok(Recording { info, trace, lines: digital.map(line).collect::<Result<_>>()? })
}

/// The next run of the product of signals: where all of them have samples.
fn product(signals: &mut [Runs]) -> Result<Option<Run>> {
    loop {
        let mut all: Option<Run> = None;
        for signal in signals.iter_mut() {
            let Some(run) = signal.peek()? else { return Ok(None) };
            all = Some(match all {
                None => run,
                Some(other) => Run {
                    first: other.first.max(run.first),
                    end: other.end.min(run.end),
                    value: other.value * run.value,
                },
            });
        }
        let Some(run) = all else { return Ok(None) };
        // Behind where the first of them ends, everybody goes on.
        signals.iter_mut().for_each(|signal| signal.skip_to(run.end));
        if run.first < run.end {
            return Ok(Some(run));
        }
    }
}

/// What the time is at a sample.
struct Times {
    /// Samples and their UTC times, both growing.
    pairs: Vec<(f64, f64)>,
    rate_hz: f64,
    first: f64,
    offset_s: f64,
}

impl Times {
    /// By the signal's own pairs, else by those of another signal of its rate: an instrument counts samples once.
    fn of(signal: &Signal, signals: &[Signal], offset_s: f64) -> Self {
        let others = signals.iter().filter(|other| other.rate_hz == signal.rate_hz);
        let donor = std::iter::once(signal).chain(others).find(|signal| !signal.utc.is_empty());
        let mut pairs = donor.map_or(Vec::new(), |donor| donor.utc.clone());
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A clock that was set back is not followed.
        let mut last_s = f64::NEG_INFINITY;
        pairs.retain(|pair| {
            let is_later = pair.1 > last_s;
            last_s = last_s.max(pair.1);
            is_later
        });
        pairs.dedup_by_key(|pair| pair.0);
        Times { pairs, rate_hz: signal.rate_hz, first: signal.first_sample() as f64, offset_s }
    }

    fn at(&self, sample: f64) -> f64 {
        let behind = self.pairs.partition_point(|pair| pair.0 <= sample);
        let before = behind.checked_sub(1).map(|index| self.pairs[index]);
        let time_s = match (before, self.pairs.get(behind)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (sample - a.0) / (b.0 - a.0),
            (Some(only), None) => only.1 + (sample - only.0) / self.rate_hz,
            (None, Some(only)) => only.1 + (sample - only.0) / self.rate_hz,
            (None, None) => (sample - self.first) / self.rate_hz,
        };
        on_time_line(time_s + self.offset_s)
    }
}

/// Averages samples to readings.
struct Readings {
    times: Times,
    /// Samples of a reading.
    samples: i64,
    trace: Trace,
    /// First sample, end, sum of the values and their number, of the reading in the making.
    open: Option<(i64, i64, f64, f64)>,
    /// Where the last reading ended.
    end: Option<i64>,
}

impl Readings {
    fn new(times: Times, samples: i64, trace: Trace) -> Self {
        Readings { times, samples, trace, open: None, end: None }
    }

    fn take(&mut self, run: &Run) {
        if !run.value.is_finite() {
            return;
        }
        let weight = (run.end - run.first) as f64;
        let is_of_open = self
            .open
            .is_some_and(|(first, ..)| first.div_euclid(self.samples) == run.first.div_euclid(self.samples));
        if !is_of_open {
            self.close();
        }
        let (first, _, sum, n) = self.open.unwrap_or((run.first, run.end, 0.0, 0.0));
        self.open = Some((first, run.end, sum + weight * run.value, n + weight));
    }

    fn close(&mut self) {
        let Some((first, end, sum, n)) = self.open.take() else { return };
        if self.end.is_some_and(|last| first.saturating_sub(last) > self.samples) {
            self.trace.fail(self.times.at(first as f64), "samples were dropped");
        }
        let time_s = self.times.at((first as f64 + end as f64) / 2.0);
        self.trace.push(Reading { time_s, value: sum / n });
        self.end = Some(end);
    }

    fn finish(mut self) -> Trace {
        self.close();
        self.trace
    }
}
