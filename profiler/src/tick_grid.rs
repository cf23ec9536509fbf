//! When a slow counter changed, known better than by looking.
//!
//! Looking tells that a change lies between two readings, and reading may itself take milliseconds: NVML's energy counter
//! is read in 5 ms and changes every 100, so the moment of a change is seen to some 10 ms. But the device updates its
//! counter by a clock: on an H100, 80 to 140 changes in a row all fit a grid of 100.00 ms. A straight line through all changes
//! of a window and some around it tells how far apart the first and the last were to a few tenths of a millisecond.

use std::ops::{Range, RangeInclusive};

use crate::sensor::Reading;

/// Changes on either side of a window that tell of it, too.
const NEIGHBOURS: usize = 25;
/// Fewer tell no more than the changes themselves.
const FEWEST: usize = 10;
/// Changes scatter around the line by as much as looking makes them; beyond this much more, they lie on no grid.
const MOST_SCATTER: f64 = 1.5;

/// The first and the last of some changes, on the line through them and their neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ticks {
    pub(crate) first_s: f64,
    pub(crate) last_s: f64,
    /// Standard deviation of the time between them.
    pub(crate) span_sd_s: f64,
}

/// The moments of two changes; `None` where those around them are too few or lie on no grid.
///
/// `points` are changes as they were seen, those in `usable` without any missing between them for other reasons than that nobody
/// looked; `vagueness_s` is the time before each within which it happened.
pub(crate) fn ticks(
    points: &[Reading],
    vagueness_s: &[f64],
    period_s: f64,
    usable: Range<usize>,
    wanted: RangeInclusive<usize>,
) -> Option<Ticks> {
    let (first, last) = wanted.into_inner();
    let near = first.saturating_sub(NEIGHBOURS).max(usable.start)..usable.end.min(last + NEIGHBOURS + 1);
    let seen = points.get(near.clone())?;
    if period_s <= 0.0 || seen.len() < FEWEST || !near.contains(&first) || !near.contains(&last) {
        return None;
    }
    // Updates may have slipped in unseen between two of these.
    let mut numbers = vec![0.0];
    for pair in seen.windows(2) {
        let updates = ((pair[1].time_s - pair[0].time_s) / period_s).round();
        if updates < 1.0 {
            return None;
        }
        numbers.push(numbers[numbers.len() - 1] + updates);
    }
    let n = seen.len() as f64;
    let mean_number = numbers.iter().sum::<f64>() / n;
    let mean_s = seen.iter().map(|point| point.time_s).sum::<f64>() / n;
    let pairs =
        || numbers.iter().zip(seen).map(|(number, point)| (number - mean_number, point.time_s - mean_s));
    let squares: f64 = pairs().map(|(number, _)| number * number).sum();
    let slope_s = pairs().map(|(number, time_s)| number * time_s).sum::<f64>() / squares;
    let variance =
        pairs().map(|(number, time_s)| (time_s - slope_s * number).powi(2)).sum::<f64>() / (n - 2.0);
    // The moment of a change is uniform over the time before it was seen.
    let by_looking = vagueness_s[near.clone()].iter().map(|vague_s| vague_s.powi(2)).sum::<f64>() / n / 12.0;
    if variance > MOST_SCATTER.powi(2) * by_looking {
        return None;
    }
    let on_line = |index: usize| mean_s + slope_s * (numbers[index - near.start] - mean_number);
    let updates = numbers[last - near.start] - numbers[first - near.start];
    Some(Ticks {
        first_s: on_line(first),
        last_s: on_line(last),
        span_sd_s: (variance / squares).sqrt() * updates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    /// Changes of a counter, seen by readings that begin at random and are 8 ms apart, and the truth.
    fn seen(random: &mut Pcg64, n: usize, jitter_s: f64) -> (Vec<Reading>, Vec<f64>, Vec<f64>) {
        let (start_s, period_s) = (random.random_range(0.0..1.0), 0.1 * random.random_range(0.9998..1.0002));
        let mut ticks: Vec<f64> = (0..n)
            .map(|tick| start_s + tick as f64 * period_s + jitter_s * random.random_range(-1.0..1.0))
            .collect();
        // One in twenty is not seen.
        ticks.retain(|_| random.random::<f64>() > 0.05);
        let points = ticks.iter().enumerate().map(|(value, tick_s)| Reading {
            time_s: tick_s + random.random_range(0.0..8e-3),
            value: value as f64,
        });
        let points: Vec<Reading> = points.collect();
        let vagueness_s = vec![8e-3; points.len()];
        (points, vagueness_s, ticks)
    }

    #[test]
    fn a_grid_tells_how_far_apart_changes_were() {
        let mut random = Pcg64::seed_from_u64(1);
        let (mut squares, mut claimed, mut worst_s, mut count) = (0.0, 0.0, 0.0_f64, 0.0);
        for _ in 0..2000 {
            let (points, vagueness_s, truth) = seen(&mut random, 120, 0.0);
            let first = random.random_range(0..points.len() - 8);
            let wanted = first..=first + 7;
            let ticks = ticks(&points, &vagueness_s, 0.1, 0..points.len(), wanted).unwrap();
            let error_s = ticks.last_s - ticks.first_s - (truth[first + 7] - truth[first]);
            squares += error_s * error_s;
            claimed += ticks.span_sd_s * ticks.span_sd_s;
            // Seen 4 ms late on average, all alike.
            worst_s = worst_s.max((ticks.first_s - truth[first] - 4e-3).abs());
            count += 1.0;
        }
        let (error_s, claimed_s) = (f64::sqrt(squares / count), f64::sqrt(claimed / count));
        // Of 2000 spans, a standard deviation is known to 1.6 %. Four of these.
        assert!((error_s / claimed_s - 1.0).abs() < 0.064, "{error_s} s where {claimed_s} s was claimed");
        // By looking, 8 ms sqrt(2 / 12) = 3.3 ms. By a line through 33 changes at least, of 8 ms / sqrt(12) each, eight
        // updates are known to 8 2.3 ms / sqrt(33^3 / 12) = 0.34 ms, and the line itself at its end to 0.8 ms, of which
        // four and a half at most in so many.
        assert!(error_s < 0.34e-3 && worst_s < 4.5 * 0.8e-3, "{error_s} s, {worst_s} s");
    }

    #[test]
    fn what_lies_on_no_grid_or_is_too_little_tells_nothing() {
        let mut random = Pcg64::seed_from_u64(2);
        for _ in 0..100 {
            let (points, vagueness_s, _) = seen(&mut random, 80, 20e-3);
            assert_eq!(ticks(&points, &vagueness_s, 0.1, 0..points.len(), 30..=40), None);
        }
        let (points, vagueness_s, _) = seen(&mut random, 80, 0.0);
        assert!(ticks(&points, &vagueness_s, 0.1, 0..points.len(), 30..=40).is_some());
        assert_eq!(ticks(&points, &vagueness_s, 0.1, 31..points.len(), 30..=40), None);
        assert_eq!(ticks(&points, &vagueness_s, 0.1, 0..40, 30..=40), None);
        assert_eq!(ticks(&points, &vagueness_s, 0.1, 0..9, 0..=8), None);
        assert_eq!(ticks(&points, &vagueness_s, 1.0, 0..points.len(), 30..=40), None);
        assert_eq!(ticks(&points, &vagueness_s, 0.0, 0..points.len(), 30..=40), None);
    }
}
