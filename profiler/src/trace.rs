//! The samples of one sensor over time, and the energy between two moments.

use std::ops::{Range, RangeInclusive};

use crate::counter::{Advance, Counter};
use crate::sensor::{Reading, SensorInfo, SensorKind};
use crate::statistics::Summary;
use crate::tick_grid::{Ticks, ticks};

/// Everything one sensor said, ready for integration.
///
/// # Counters
/// Of a counter that is slower than its sampling only changes are kept. A window is charged the mean power between the first and the last change within it, times
/// its length: a change marks the end of an update period that lies before it, so this is the energy of whole update
/// periods that were spent inside the window, whatever the machine did before and after. For the homogeneous windows
/// that an experiment makes, nothing is lost by that; in a mixed window up to one update period at each end is
/// charged at the mean of the rest. Where many changes lie on a grid, that tells when each was. A window with fewer than two changes is unresolved. Of a fast counter every reading
/// is kept, and readings take the place of changes.
///
/// # Power
/// Samples are joined by straight lines (trapezoid rule), and the window's ends are interpolated. Beyond the last
/// sample the last value holds for one update period.
#[derive(Clone, Debug)]
pub struct Trace {
    kind: SensorKind,
    update_period_s: f64,
    is_current: bool,
    counter: Counter,
    points: Vec<Reading>,
    /// Of each point: the time before it within which the value may have changed.
    vagueness_s: Vec<f64>,
    /// Last time the sensor answered, changed or not.
    answered_s: f64,
    /// Stretches of which nothing is known, and why: from the last answer to the reset or failure.
    gaps: Vec<Gap>,
}

#[derive(Clone, Debug)]
struct Gap {
    start_s: f64,
    end_s: f64,
    reason: String,
}

/// From one change of a counter to another.
#[derive(Clone, Copy, Debug)]
struct Span {
    duration_s: f64,
    /// Standard deviation of that.
    sd_s: f64,
    energy_j: f64,
}

/// The energy between two moments.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowEnergy {
    /// So much.
    Resolved {
        /// The energy.
        energy_j: f64,
        /// Standard deviation from the sensor's own sampling.
        sampling_sd_j: f64,
        /// Updates of the sensor within the window.
        updates: u64,
    },
    /// The trace does not tell.
    Unresolved {
        /// What the energy cannot exceed, if even that is known.
        upper_bound_j: Option<f64>,
        /// Why it does not tell.
        reason: String,
        /// Whether that has nothing to do with how much it was: the counter was reset, or the sensor failed.
        is_lost: bool,
    },
}

impl Trace {
    /// An empty trace of the sensor.
    pub fn new(info: &SensorInfo) -> Self {
        Trace {
            kind: info.kind,
            update_period_s: info.update_period_s,
            is_current: info.is_current(),
            counter: Counter::new(info.range_j),
            points: Vec::new(),
            vagueness_s: Vec::new(),
            answered_s: f64::NEG_INFINITY,
            gaps: Vec::new(),
        }
    }

    /// Takes in a reading. Readings come in the order of time; one that does not is dropped.
    pub fn push(&mut self, reading: Reading) {
        if reading.time_s < self.answered_s {
            return;
        }
        let previous_s = std::mem::replace(&mut self.answered_s, reading.time_s);
        let value = match self.kind {
            SensorKind::Power => reading.value,
            SensorKind::EnergyCounter => match self.counter.advance(reading.value) {
                Advance::Unchanged if !self.is_current => return,
                Advance::Started | Advance::Unchanged | Advance::By(_) => self.counter.total_j(),
                Advance::Reset => {
                    let reason = "the counter was reset".to_owned();
                    self.gaps.push(Gap { start_s: previous_s, end_s: reading.time_s, reason });
                    self.counter.total_j()
                }
            },
        };
        self.points.push(Reading { time_s: reading.time_s, value });
        self.vagueness_s.push((reading.time_s - previous_s).min(self.update_period_s));
    }

    /// Notes that the sensor failed at `time_s`: nothing is known from its last answer to its next.
    pub fn fail(&mut self, time_s: f64, reason: &str) {
        match self.gaps.last_mut() {
            Some(gap) if gap.start_s == self.answered_s => gap.end_s = time_s,
            _ => self.gaps.push(Gap { start_s: self.answered_s, end_s: time_s, reason: reason.to_owned() }),
        }
    }

    /// Moves all times by `offset_s`.
    pub fn shift(&mut self, offset_s: f64) {
        self.points.iter_mut().for_each(|point| point.time_s += offset_s);
        self.answered_s += offset_s;
        for gap in &mut self.gaps {
            gap.start_s += offset_s;
            gap.end_s += offset_s;
        }
    }

    /// The kept samples: joules since the first reading, or watts.
    pub fn points(&self) -> &[Reading] {
        &self.points
    }

    /// Time of the last kept sample.
    pub fn last_time_s(&self) -> Option<f64> {
        self.points.last().map(|point| point.time_s)
    }

    /// The energy between two moments.
    pub fn energy(&self, start_s: f64, end_s: f64) -> WindowEnergy {
        let unresolved = |upper_bound_j, reason: &str| WindowEnergy::Unresolved {
            upper_bound_j,
            reason: reason.to_owned(),
            is_lost: false,
        };
        if end_s <= start_s {
            return unresolved(None, "the window has no length");
        }
        if let Some(gap) = self.gaps.iter().find(|gap| gap.start_s < end_s && gap.end_s >= start_s) {
            let reason = gap.reason.clone();
            return WindowEnergy::Unresolved { upper_bound_j: None, reason, is_lost: true };
        }
        match self.kind {
            SensorKind::EnergyCounter => self.counted_energy(start_s, end_s),
            SensorKind::Power => self.integrated_power(start_s, end_s),
        }
    }

    fn counted_energy(&self, start_s: f64, end_s: f64) -> WindowEnergy {
        // The first reading of all is no change: the update that it shows lies some time before it.
        let first = self.points.partition_point(|point| point.time_s < start_s).max(self.first_change());
        let behind = self.points.partition_point(|point| point.time_s <= end_s);
        if first >= behind {
            return self.bounded(start_s, end_s, "the counter did not change within the window");
        }
        let seen = behind - 1 - first;
        let updates = self.updates(self.points[behind - 1].time_s - self.points[first].time_s, seen);
        let span = self.span(first, behind - 1, start_s);
        if span.duration_s <= 0.0 {
            return self.bounded(start_s, end_s, "the counter changed only once within the window");
        }
        let power_w = span.energy_j / span.duration_s;
        WindowEnergy::Resolved {
            energy_j: power_w * (end_s - start_s),
            sampling_sd_j: power_w * span.sd_s * (end_s - start_s) / span.duration_s,
            updates,
        }
    }

    /// From one change to another near the ends of a stretch of points: where a counter's changes lie on a grid, the outermost
    /// ones of which that tells that they lie behind `start_s`.
    fn span(&self, first: usize, last: usize, start_s: f64) -> Span {
        let energy_j = |first: usize, last: usize| self.points[last].value - self.points[first].value;
        if !self.is_current && last > first {
            let on_grid = |first: usize| {
                let usable = self.gapless(first);
                ticks(&self.points, &self.vagueness_s, self.update_period_s, usable, first..=last)
            };
            let mut on_grids = (first..last).map_while(|first| Some((first, on_grid(first)?)));
            if let Some((first, Ticks { first_s, last_s, span_sd_s })) =
                on_grids.find(|(_, ticks)| ticks.first_s >= start_s)
            {
                return Span {
                    duration_s: last_s - first_s,
                    sd_s: span_sd_s,
                    energy_j: energy_j(first, last),
                };
            }
        }
        let (first, last) = self.sharpest(first, last);
        Span {
            duration_s: self.points[last].time_s - self.points[first].time_s,
            // The moment of a change is uniform over the time before it was seen: standard deviation over sqrt(12).
            sd_s: self.vagueness_s[first].hypot(self.vagueness_s[last]) / 12.0_f64.sqrt(),
            energy_j: energy_j(first, last),
        }
    }

    /// The points around one between which nothing is missing: changes, and not the one that ends a gap, which says when the
    /// sensor came back.
    fn gapless(&self, index: usize) -> Range<usize> {
        let time_s = self.points[index].time_s;
        let behind = self.gaps.iter().rev().find(|gap| gap.end_s <= time_s);
        let before = self.gaps.iter().find(|gap| gap.start_s >= time_s);
        let from = behind.map_or(0, |gap| self.points.partition_point(|point| point.time_s <= gap.end_s));
        let to = before.map_or(self.points.len(), |gap| {
            self.points.partition_point(|point| point.time_s <= gap.start_s)
        });
        from.max(self.first_change())..to
    }

    /// Two points near the ends of a stretch of points whose moments are well known: of a slow counter, the sharpest in
    /// the first and the last quarter, since some changes slip in while nobody looks. A fast counter's readings are all
    /// alike, and its ends are the window's.
    fn sharpest(&self, first: usize, last: usize) -> (usize, usize) {
        if self.is_current {
            return (first, last);
        }
        let quarter = (last - first) / 4;
        let (head, tail) = (first..=first + quarter, last - quarter..=last);
        // The outermost point that is about as sharp as the sharpest: a longer span is worth more than the last bit.
        let is_sharp = |range: RangeInclusive<usize>| {
            let sharpest_s = self.vagueness_s[range].iter().copied().fold(f64::INFINITY, f64::min);
            move |&index: &usize| self.vagueness_s[index] <= 1.5 * sharpest_s
        };
        let from = head.clone().find(is_sharp(head)).unwrap_or(first);
        let to = tail.clone().rev().find(is_sharp(tail)).unwrap_or(last);
        (from, to)
    }

    /// Index of the first point that is a change.
    fn first_change(&self) -> usize {
        usize::from(!self.is_current)
    }

    /// Updates within `span_s`, of which `seen` were read.
    fn updates(&self, span_s: f64, seen: usize) -> u64 {
        // The margin keeps a span of exactly n periods from rounding down to n - 1.
        let elapsed = (span_s / self.update_period_s + 1e-6).floor();
        if self.update_period_s > 0.0 { (elapsed as u64).max(seen as u64) } else { seen as u64 }
    }

    /// Unresolved, with the energy between the readings around the window as its bound.
    fn bounded(&self, start_s: f64, end_s: f64, reason: &str) -> WindowEnergy {
        let before = self.points.iter().rev().find(|point| point.time_s <= start_s);
        let after = self.points.iter().find(|point| point.time_s >= end_s);
        let around_j = before.zip(after).map(|(before, after)| after.value - before.value);
        // Without a later reading: the highest power between two changes so far, for the window and the update that
        // is still to come.
        let peak_w = self.points[self.first_change().min(self.points.len())..]
            .windows(2)
            .map(|pair| (pair[1].value - pair[0].value) / (pair[1].time_s - pair[0].time_s))
            .filter(|power_w| power_w.is_finite())
            .reduce(f64::max);
        let peak_j = peak_w.map(|peak_w| peak_w * (end_s - start_s + self.update_period_s));
        WindowEnergy::Unresolved {
            upper_bound_j: around_j.or(peak_j),
            reason: reason.to_owned(),
            is_lost: false,
        }
    }

    fn integrated_power(&self, start_s: f64, end_s: f64) -> WindowEnergy {
        let unresolved = |reason: &str| WindowEnergy::Unresolved {
            upper_bound_j: None,
            reason: reason.to_owned(),
            is_lost: false,
        };
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return unresolved("the sensor has not answered yet");
        };
        if first.time_s > start_s {
            return unresolved("the samples begin after the window");
        }
        if last.time_s + self.update_period_s < end_s {
            return unresolved("the samples end before the window");
        }
        let from = self.points.partition_point(|point| point.time_s <= start_s);
        let to = self.points.partition_point(|point| point.time_s < end_s);
        let samples = &self.points[from..to.max(from)];
        let duration_s = end_s - start_s;
        if samples.is_empty() {
            return WindowEnergy::Unresolved {
                upper_bound_j: Some(self.power_w(start_s).max(self.power_w(end_s)) * duration_s),
                reason: "no sample lies within the window".to_owned(),
                is_lost: false,
            };
        }
        let mut energy_j = 0.0;
        let mut at = Reading { time_s: start_s, value: self.power_w(start_s) };
        let end = Reading { time_s: end_s, value: self.power_w(end_s) };
        for point in samples.iter().chain([&end]) {
            energy_j += (point.value + at.value) / 2.0 * (point.time_s - at.time_s);
            at = *point;
        }
        // The mean of n samples of a varying power is known to sd / sqrt(n).
        let spread = Summary::of(&samples.iter().map(|sample| sample.value).collect::<Vec<_>>());
        let spread_w = spread.standard_deviation.unwrap_or((at.value - self.power_w(start_s)).abs());
        WindowEnergy::Resolved {
            energy_j,
            sampling_sd_j: spread_w * duration_s / (samples.len() as f64).sqrt(),
            updates: samples.len() as u64,
        }
    }

    /// Interpolated power; the last value holds beyond the last sample.
    pub(crate) fn power_w(&self, time_s: f64) -> f64 {
        let behind = self.points.partition_point(|point| point.time_s <= time_s);
        match (behind.checked_sub(1).and_then(|i| self.points.get(i)), self.points.get(behind)) {
            (Some(a), Some(b)) => a.value + (b.value - a.value) * (time_s - a.time_s) / (b.time_s - a.time_s),
            (Some(only), None) | (None, Some(only)) => only.value,
            (None, None) => 0.0,
        }
    }
}
