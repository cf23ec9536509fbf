//! What an experiment leaves behind: its trials, and what they were trials of.

use joulewise_engine::{ModuleId, Span};
use serde::{Deserialize, Serialize};

use crate::classes::Class;
use crate::energy::Energy;
use crate::schedule::Planned;

/// What a trial ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Nothing: the idle machine.
    Idle,
    /// The whole program in one piece.
    Whole,
    /// The whole program cut at modules.
    Observed,
    /// One module over and over.
    Replay(ModuleId),
    /// One class over and over, module by module.
    Rotation(usize),
    /// The whole program with the extra sweeps of the trial, for the regression to learn from.
    Repeated,
    /// The same with a mixture of classes, for the regression to be tested on.
    Mixture,
    /// The whole program between two rests, to be recognised in the log of an external meter.
    Marker,
}

/// Sweeps of a class in each iteration of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Index of the class.
    pub class: usize,
    /// How often all of its modules are run.
    pub sweeps: usize,
}

/// One trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What was run.
    pub target: Target,
    /// Number of the round.
    pub round: usize,
    /// Start of its window.
    pub start_s: f64,
    /// Length of its window.
    pub duration_s: f64,
    /// Seconds that the device took for all iterations.
    pub run_s: f64,
    /// How often the target was run.
    pub iterations: usize,
    /// Sweeps in each iteration.
    pub extra: Vec<Extra>,
    /// Processor time of this process within the window.
    pub cpu_time_s: Option<f64>,
    /// Of an observed trial: mean seconds per iteration, in the order of the parts.
    pub part_s: Vec<f64>,
    /// What the sensors said, of a trial from an earlier process; `None` while the meter can still be asked.
    pub seen: Option<Seen>,
    /// What about the machine speaks against this trial.
    pub flags: Vec<String>,
    /// Temperature of the device at its end.
    pub temperature_c: Option<f64>,
    /// Mean clock of the device within the window, by its own count.
    pub clock_hz: Option<f64>,
}

/// What the sensors said of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// By the primary sensors.
    pub energy: Energy,
    /// By each sensor.
    pub by_sensor: Vec<Energy>,
    /// Why the energy is unresolved.
    pub reason: Option<String>,
    /// Whether it is for a reason that has nothing to do with how much it was.
    pub is_lost: bool,
}

/// All trials so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// In the order in which they were run.
    pub trials: Vec<Trial>,
    /// The last observed run, module by module.
    pub timeline: Vec<Span>,
    /// Classes of modules.
    pub classes: Vec<Class>,
    /// How often each class is swept in the trials that repeat it.
    pub sweeps: Vec<usize>,
    /// Modules that are replayed: all, or a sample of equal ones.
    pub replayed: Vec<ModuleId>,
    /// Iterations of the warm-up.
    pub warm_up_iterations: usize,
    /// Why something that was asked for is not there.
    pub notes: Vec<String>,
    /// Whether all planned trials were run.
    pub is_complete: bool,
}

impl Record {
    /// Whether a planned trial was run.
    pub(super) fn has(&self, planned: &Planned, round: usize) -> bool {
        let is_it = |trial: &Trial| {
            trial.round == round && trial.target == planned.target && trial.extra == planned.extra
        };
        self.trials.iter().any(is_it)
    }
}
