//! How far a run of several stages is, on standard error: a bar for a terminal, a line now and then for a log.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use joulewise_profiler::planner::study::Step;

use crate::output;

/// A log gets a line this often.
const LOG_PERIOD: Duration = Duration::from_secs(30);

/// The stage at hand.
pub(crate) struct Stages {
    is_terminal: bool,
    bar: ProgressBar,
    stage: String,
    begin: Instant,
    logged: Instant,
    done: usize,
    all: usize,
}

impl Stages {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Stages {
            is_terminal: std::io::stderr().is_terminal(),
            bar: ProgressBar::hidden(),
            stage: String::new(),
            begin: now,
            logged: now,
            done: 0,
            all: 0,
        }
    }

    /// Shows a step; a new stage ends the one before.
    pub(crate) fn show(&mut self, step: &Step<'_>) {
        if self.stage != step.stage {
            self.end();
            self.stage = step.stage.to_owned();
            (self.begin, self.logged) = (Instant::now(), Instant::now());
            self.bar = output::progress(&self.stage, step.all as u64);
        }
        (self.done, self.all) = (step.done, step.all);
        self.bar.set_length(step.all as u64);
        self.bar.set_position(step.done as u64);
        self.bar.set_message(format!("{} {}", self.stage, step.what));
        if !self.is_terminal && self.logged.elapsed() > LOG_PERIOD {
            self.logged = Instant::now();
            output::note(format!("{}: {} of {}, {}", self.stage, self.done, self.all, step.what));
        }
    }

    /// Ends the stage with a line that stays.
    pub(crate) fn end(&mut self) {
        self.bar.finish_and_clear();
        if !self.stage.is_empty() {
            let seconds = self.begin.elapsed().as_secs_f64();
            output::note(format!("{}: {} of {} in {seconds:.1} s", self.stage, self.done, self.all));
            self.stage.clear();
        }
    }
}
