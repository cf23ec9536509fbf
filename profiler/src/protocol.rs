//! How to measure: the numbers of the protocol, which every profile keeps.

use serde::{Deserialize, Serialize};

/// How to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Protocol {
    /// Rounds of trials; every round measures the whole program and every class of modules.
    pub trials: usize,
    /// Rounds that are gone through whatever the time.
    pub min_trials: usize,
    /// Rounds go on until the intervals are as narrow as `target_relative_ci`, at most so many.
    pub max_trials: usize,
    /// Half width of the 95 % intervals, relative, of the whole and of every class above `target_share` of it.
    pub target_relative_ci: f64,
    /// Share of the whole from which on a class has to be known that well.
    pub target_share: f64,
    /// No further round beyond `min_trials` begins after so long.
    pub time_limit_s: f64,
    /// Whether a square wave of load comes first, by which an external meter's log is aligned.
    pub marker: bool,
    /// Iterations of each trial; `None`: as many as its window needs.
    pub iterations: Option<usize>,
    /// Shortest window of a whole-program trial.
    pub min_window_s: f64,
    /// Sensor updates that such a window has to outlast.
    pub min_updates: f64,
    /// Whether the whole is also run cut at modules, for shares of time.
    pub cut: bool,
    /// Whether classes of modules are run extra times behind the whole program, for attribution by regression.
    pub regression: bool,
    /// Shortest window of such a trial.
    pub regression_min_window_s: f64,
    /// Sensor updates that such a window has to outlast.
    pub regression_min_updates: f64,
    /// How much a class's extra runs should add to an iteration.
    pub regression_extra: f64,
    /// When the rounds would take longer than this, there are fewer of them; below two there is no regression.
    pub regression_limit_s: f64,
    /// Modules that are a class of their own, by path.
    pub apart: Vec<String>,
    /// Draws of the bootstrap.
    pub bootstrap_draws: usize,
    /// Trials of each module by itself, 0 for none. Never more than `trials`.
    pub replay_trials: usize,
    /// Shortest window of such a trial.
    pub replay_min_window_s: f64,
    /// Sensor updates that such a window has to outlast.
    pub replay_min_updates: f64,
    /// When replaying every module would take longer, only the first, middle and last of equal ones are replayed.
    pub replay_limit_s: f64,
    /// Rest before, between and after the trials, each this long, for the power of the idle machine.
    pub idle_s: f64,
    /// Warm-up ends when the last iterations vary by less than this (standard deviation over mean).
    pub warm_up_variation: f64,
    /// And the temperature, where there is one, changes by less than this.
    pub warm_up_kelvin_per_s: f64,
    /// Or after so long.
    pub warm_up_limit_s: f64,
    /// Seed of the order of trials and of the bootstrap.
    pub seed: u64,
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol {
            trials: 5,
            min_trials: 5,
            max_trials: 20,
            target_relative_ci: 0.01,
            target_share: 0.02,
            time_limit_s: 25.0,
            marker: false,
            iterations: None,
            min_window_s: 0.5,
            min_updates: 8.0,
            cut: true,
            regression: true,
            regression_min_window_s: 0.1,
            regression_min_updates: 8.0,
            regression_extra: 1.5,
            regression_limit_s: 900.0,
            apart: Vec::new(),
            bootstrap_draws: 1000,
            replay_trials: 3,
            replay_min_window_s: 0.04,
            replay_min_updates: 12.0,
            replay_limit_s: 180.0,
            idle_s: 1.0,
            warm_up_variation: 0.05,
            warm_up_kelvin_per_s: 0.1,
            warm_up_limit_s: 3.0,
            seed: 0,
        }
    }
}

impl Protocol {
    /// A coarse look: fewer and shorter trials, whose intervals say how coarse.
    pub fn quick() -> Self {
        Protocol {
            trials: 3,
            min_trials: 3,
            max_trials: 3,
            min_window_s: 0.1,
            min_updates: 8.0,
            regression_min_window_s: 0.04,
            regression_min_updates: 8.0,
            regression_limit_s: 120.0,
            replay_trials: 2,
            replay_min_window_s: 0.01,
            replay_min_updates: 3.0,
            replay_limit_s: 30.0,
            idle_s: 0.3,
            warm_up_limit_s: 1.0,
            ..Protocol::default()
        }
    }
}
