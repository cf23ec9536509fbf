//! How a time is taken outside criterion: repeat, sort, report the middle and the tails.

use std::time::{Duration, Instant};

/// Times of repeated runs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Timing {
    /// Half of the runs were faster.
    pub median_s: f64,
    /// A tenth of the runs were faster.
    pub p10_s: f64,
    /// A tenth of the runs were slower.
    pub p90_s: f64,
    /// Runs.
    pub n: usize,
}

impl Timing {
    /// Sums up single times.
    ///
    /// # Panics
    /// When there are none.
    pub fn of(mut times_s: Vec<f64>) -> Self {
        times_s.sort_by(f64::total_cmp);
        let at = |share: f64| times_s[((times_s.len() - 1) as f64 * share).round() as usize];
        Self { median_s: at(0.5), p10_s: at(0.1), p90_s: at(0.9), n: times_s.len() }
    }
}

/// How long to repeat.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs that are not counted.
    pub warm_up: usize,
    /// At least this many runs are counted.
    pub min_runs: usize,
    /// No further run begins after this time.
    pub budget: Duration,
}

impl Effort {
    /// For a table that somebody will read.
    pub const FULL: Self = Self { warm_up: 3, min_runs: 9, budget: Duration::from_millis(400) };

    /// To see that it runs at all.
    pub const TEST: Self = Self { warm_up: 0, min_runs: 1, budget: Duration::ZERO };
}

/// Runs shorter than this are timed several at once: reading the clock takes about 30 ns.
const SHORTEST: Duration = Duration::from_micros(20);

/// Times `f`, which does one run.
pub fn time(effort: Effort, mut f: impl FnMut()) -> Timing {
    for _ in 0..effort.warm_up {
        f();
    }
    let start = Instant::now();
    let mut batch = 1;
    let mut times_s = Vec::new();
    while times_s.len() < effort.min_runs || start.elapsed() < effort.budget {
        let begin = Instant::now();
        for _ in 0..batch {
            f();
        }
        let elapsed = begin.elapsed();
        if elapsed < SHORTEST && effort.warm_up > 0 {
            batch *= 2;
            times_s.clear();
            continue;
        }
        times_s.push(elapsed.as_secs_f64() / f64::from(batch));
    }
    Timing::of(times_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_tails() {
        let timing = Timing::of((1..=11).rev().map(f64::from).collect());
        assert_eq!((timing.p10_s, timing.median_s, timing.p90_s, timing.n), (2.0, 6.0, 10.0, 11));
    }

    #[test]
    fn a_test_runs_once() {
        let mut runs = 0;
        assert_eq!(time(Effort::TEST, || runs += 1).n, 1);
        assert_eq!(runs, 1);
    }
}
