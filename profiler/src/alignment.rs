//! How the clock of a recording stands to that of the profiled machine.
//!
//! A profile with a marker begins with a square wave of load ([`Protocol::marker`](crate::protocol::Protocol)). It is
//! found again in the recording: in its power, or, where the machine also raised a line to the meter meanwhile
//! ([`crate::marker`]), in a digital input, which tells the moment to a sample.

use crate::clock;
use crate::error::{ProfilerError, Result};
use crate::recording::Recording;
use crate::report::json::Profile;
use crate::statistics::pearson;

/// How a recording's clock stands to that of the profiled machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Seconds to add to the recording's times.
    pub offset_s: f64,
    /// Correlation between the recording and the load at this offset.
    pub correlation: f64,
}

/// Below this, recording and load have nothing to do with each other.
const LEAST_CORRELATION: f64 = 0.5;
/// Rest before the first and behind the last window that takes part.
const MARGIN_S: f64 = 0.2;
/// Windows of one marker.
const MARKER_WINDOWS: usize = 8;

/// Finds a recording's offset from the load: at the right one, its power is high (or its digital line `line` is) in the
/// windows of the program and low between them. Tried to a millisecond over the whole length of the recording. A profile
/// with a marker is aligned by that alone; in others the program also runs a little outside of its windows, which may
/// move the offset by some ten milliseconds. By a line, the edges then give the rest.
///
/// # Errors
/// [`ProfilerError::Protocol`] when there is no such line, when a line is asked for and the profile has no marker, or when
/// no offset makes the recording follow the load.
pub fn align(profile: &Profile, recording: &Recording, line: Option<&str>) -> Result<Alignment> {
    let line = line.map(|name| recording.line(name)).transpose()?;
    let windows = || profile.phases().flat_map(|(_, phase)| &phase.windows);
    let is_marked = windows().any(|window| window.target == "marker");
    if line.is_some() && !is_marked {
        return Err(ProfilerError::Protocol("the profile was measured without a marker".to_owned()));
    }
    let mut windows: Vec<(f64, f64)> = windows()
        .filter(|window| if is_marked { window.target == "marker" } else { window.target != "idle" })
        .map(|window| (clock::from_unix_s(window.start_unix_s), window.duration_s))
        .collect();
    if is_marked {
        // Those of the first phase: what lies between two waves is no rest.
        windows.truncate(MARKER_WINDOWS);
    }
    let nothing =
        || ProfilerError::Protocol("the recording does not follow the load of the profile".to_owned());
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Err(nothing()) };
    let (begin_s, end_s) = (first.0 - MARGIN_S, last.0 + last.1 + MARGIN_S);
    let points = recording.trace.points();
    let (Some(log_first), Some(log_last)) = (points.first(), points.last()) else { return Err(nothing()) };
    let level = |time_s: f64| match line {
        Some(line) => f64::from(u8::from(line.level(time_s))),
        None => recording.trace.power_w(time_s),
    };
    let correlation = |offset_s: f64, step_s: f64| -> f64 {
        let n = ((end_s - begin_s) / step_s) as usize;
        let (mut seen, mut load) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut window = 0;
        for index in 0..n {
            let time_s = begin_s + index as f64 * step_s;
            while window + 1 < windows.len() && windows[window].0 + windows[window].1 < time_s {
                window += 1;
            }
            let (start_s, duration_s) = windows[window];
            load.push(f64::from(u8::from((start_s..start_s + duration_s).contains(&time_s))));
            seen.push(level(time_s - offset_s));
        }
        pearson(&seen, &load).unwrap_or(-1.0)
    };
    let best = |offsets: &mut dyn Iterator<Item = f64>, step_s: f64| {
        offsets.map(|offset_s| (offset_s, correlation(offset_s, step_s))).max_by(|a, b| a.1.total_cmp(&b.1))
    };
    // Offsets at which recording and profile overlap by at least half of the profile.
    let half_s = (end_s - begin_s) / 2.0;
    let (least_s, most_s) = (end_s - half_s - log_last.time_s, begin_s + half_s - log_first.time_s);
    let coarse_s = ((end_s - begin_s) / 2000.0).clamp(0.01, 0.05);
    let n = ((most_s - least_s).max(0.0) / coarse_s) as usize;
    let (mut offset_s, mut found) =
        best(&mut (0..=n).map(|i| least_s + i as f64 * coarse_s), coarse_s).ok_or_else(nothing)?;
    for step_s in [coarse_s / 5.0, 1e-3] {
        let around: Vec<f64> = (-10..=10).map(|i| offset_s + f64::from(i) * step_s).collect();
        (offset_s, found) = best(&mut around.into_iter(), step_s.max(2e-3)).ok_or_else(nothing)?;
    }
    if found < LEAST_CORRELATION {
        return Err(nothing());
    }
    if let Some(line) = line {
        let ends = windows.iter().flat_map(|(start_s, duration_s)| [*start_s, start_s + duration_s]);
        let mut rests: Vec<f64> = ends
            .filter_map(|moment_s| {
                let rest = |change: &(f64, bool)| moment_s - (change.0 + offset_s);
                line.changes.iter().map(rest).min_by(|a, b| a.abs().total_cmp(&b.abs()))
            })
            .collect();
        rests.sort_by(f64::total_cmp);
        offset_s += rests.get(rests.len() / 2).copied().unwrap_or(0.0);
    }
    Ok(Alignment { offset_s, correlation: found })
}
