//! One phase of a profile, as `profile.json` has it.

use serde::{Deserialize, Serialize};

use crate::ballast::Ballast;
use crate::energy::{Energy, Provenance};
use crate::experiment::Extra;
use crate::metrics::Metric;
use crate::report::json::Timing;

/// One phase of a model: `forward` (encoders), `prefill`, `decode`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseProfile {
    /// Name of the phase.
    pub name: String,
    /// Sequences.
    pub batch: usize,
    /// New tokens per sequence and iteration.
    pub tokens: usize,
    /// Tokens that stand in the cache before each iteration.
    pub kv_length: usize,
    /// Whether all planned trials were run.
    pub is_complete: bool,
    /// Iterations of the warm-up.
    pub warm_up_iterations: usize,
    /// The whole program in one piece.
    pub whole: Whole,
    /// Which attribution the report draws: `regression`; `replay` or `first-order` where that one is not there.
    pub attribution: Attribution,
    /// One row per module, in program order.
    pub modules: Vec<ModuleRow>,
    /// Sums over the modules of a layer, with what stands before and behind the layers.
    pub layers: Vec<GroupRow>,
    /// Sums over the modules of a kind.
    pub kinds: Vec<GroupRow>,
    /// Classes of modules; their costs are those of one run of one module, by regression.
    #[serde(default)]
    pub classes: Vec<ClassRow>,
    /// How the regression went, where there was one.
    #[serde(default)]
    pub regression: Option<RegressionSummary>,
    /// The sums of the rows against the whole.
    pub closure: Closure,
    /// Figures per token, sample and joule.
    pub metrics: Vec<Metric>,
    /// One run, module by module.
    pub timeline: Vec<TimelineSpan>,
    /// Power over the time of the trials, by the primary sensor.
    pub power_samples: Vec<PowerSample>,
    /// Every window that was measured.
    pub windows: Vec<WindowRow>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// How energy is shared out among modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribution {
    /// Share of the time times mean power.
    FirstOrder,
    /// Each module by itself, over and over.
    Replay,
    /// What the whole costs more when a class of modules is run extra times within it.
    Regression,
}

impl Attribution {
    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Attribution::FirstOrder => "first-order",
            Attribution::Replay => "replay",
            Attribution::Regression => "regression",
        }
    }
}

/// The whole program, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// Iterations of a trial, on average.
    pub iterations: usize,
    /// Time.
    pub time: Timing,
    /// Energy by the primary sensors.
    pub energy: Energy,
    /// Energy over that of the idle machine for the same time.
    pub dynamic_energy: Energy,
    /// Mean power.
    pub power_w: Option<f64>,
    /// Power of the idle machine with the model loaded.
    pub idle_power_w: Option<f64>,
    /// The same before, between and after the trials.
    #[serde(default)]
    pub idle_powers_w: Vec<f64>,
    /// Processor time of this process.
    pub cpu_time_s: Option<f64>,
    /// Energy by each sensor of the machine. Scopes may overlap: these do not add up.
    pub by_sensor: Vec<Energy>,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read, by count.
    pub bytes_read: f64,
    /// Bytes written, by count.
    pub bytes_written: f64,
}

/// One module, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModuleRow {
    /// Index in the model.
    pub id: u32,
    /// The checkpoint's own name.
    pub path: String,
    /// What it does.
    pub kind: String,
    /// Its layer.
    pub block: Option<u32>,
    /// Number format of its matrices.
    pub format: Option<String>,
    /// Bytes of its matrices.
    pub weight_bytes: u64,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read, by count.
    pub bytes_read: f64,
    /// Bytes written, by count.
    pub bytes_written: f64,
    /// Time within the whole program.
    pub time: Timing,
    /// Share of the time of all modules.
    pub time_share: f64,
    /// Time by itself, over and over.
    pub replay_time: Option<Timing>,
    /// Its share of the time times mean power.
    pub first_order: Energy,
    /// Energy by itself, over and over.
    pub replay: Option<Energy>,
    /// Whether it was replayed itself; else an equal module of another layer stands for it.
    pub is_replayed: bool,
    /// Energy by itself in turns with the others of its class, so that its weights come from memory.
    #[serde(default)]
    pub rotation: Option<Energy>,
    /// Energy by regression: that of its class.
    #[serde(default)]
    pub regression: Option<Energy>,
    /// Time by regression.
    #[serde(default)]
    pub regression_time: Option<Timing>,
}

/// Several modules together, per iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupRow {
    /// Layer or kind.
    pub name: String,
    /// Modules in it.
    pub n_modules: usize,
    /// Bytes of their matrices.
    pub weight_bytes: u64,
    /// Operations, by count.
    pub flops: f64,
    /// Bytes read and written, by count.
    pub bytes: f64,
    /// Time within the whole program.
    pub time: Timing,
    /// Share of the time of all modules.
    pub time_share: f64,
    /// Share of the time times mean power.
    pub first_order: Energy,
    /// Sum of the replayed modules.
    pub replay: Option<Energy>,
    /// Sum of the modules in turns with their class.
    #[serde(default)]
    pub rotation: Option<Energy>,
    /// Sum by regression; costs of classes are correlated, so its interval is not that of independent terms.
    #[serde(default)]
    pub regression: Option<Energy>,
}

impl ModuleRow {
    /// Its energy by the chosen attribution.
    pub fn energy(&self, attribution: Attribution) -> &Energy {
        choose(attribution, &self.first_order, self.replay.as_ref(), self.regression.as_ref())
    }

    /// The time that belongs to that energy.
    pub fn timing(&self, attribution: Attribution) -> Timing {
        match attribution {
            Attribution::FirstOrder => None,
            Attribution::Replay => self.replay_time,
            Attribution::Regression => self.regression_time,
        }
        .unwrap_or(self.time)
    }
}

impl GroupRow {
    /// Its energy by the chosen attribution.
    pub fn energy(&self, attribution: Attribution) -> &Energy {
        choose(attribution, &self.first_order, self.replay.as_ref(), self.regression.as_ref())
    }
}

fn choose<'a>(
    attribution: Attribution,
    first_order: &'a Energy,
    replay: Option<&'a Energy>,
    regression: Option<&'a Energy>,
) -> &'a Energy {
    match attribution {
        Attribution::FirstOrder => None,
        Attribution::Replay => replay,
        Attribution::Regression => regression,
    }
    .unwrap_or(first_order)
}

/// Whether the rows add up to the whole. Nothing is rescaled to make them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closure {
    /// Time of all modules within the cut program over the time of the program in one piece.
    pub time: TimeClosure,
    /// Energy by time share.
    pub first_order: EnergyClosure,
    /// Energy by replay.
    pub replay: Option<EnergyClosure>,
    /// Energy by replay in turns with the class.
    #[serde(default)]
    pub rotation: Option<EnergyClosure>,
    /// Energy by regression, against whole programs that the regression has not seen.
    #[serde(default)]
    pub regression: Option<EnergyClosure>,
}

/// Closure in time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TimeClosure {
    /// Sum over the modules.
    pub sum_s: f64,
    /// The whole in one piece.
    pub whole_s: f64,
    /// Sum over whole.
    pub ratio: f64,
}

/// Closure in energy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnergyClosure {
    /// Sum over the modules.
    pub sum: Energy,
    /// What the whole used and no module accounts for; negative when the modules account for more.
    pub unattributed: Energy,
    /// Sum over whole.
    pub ratio: Option<f64>,
    /// Half width of the 95 % interval of that.
    #[serde(default)]
    pub ratio_ci95: Option<f64>,
}

/// How well the regression told classes of modules apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegressionSummary {
    /// What an iteration costs beside its modules, as the regression sees it; it may be negative.
    pub outside: Energy,
    /// Condition number of the weighted design: how well the trials tell classes apart, 1 being best.
    pub condition_number: f64,
    /// Scatter of one trial around the fit, relative.
    pub scatter_relative: f64,
    /// The same of trials that ran the same, around their mean: what the other has more is how far classes are from adding
    /// up.
    #[serde(default)]
    pub scatter_of_equals_relative: Option<f64>,
    /// Scatter of whole rounds, relative.
    pub round_scatter_relative: f64,
    /// Rounds.
    pub n_rounds: usize,
    /// Trials that the fit has seen.
    pub n_trials: usize,
    /// How well it predicts mixtures of classes that it has not seen.
    pub additivity: Option<Additivity>,
    /// What the conditions of trials did, which costs are freed of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<ConditionEffect>,
}

/// What a condition does to the joules of all modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConditionEffect {
    /// A difference in it, such as "10 K more".
    pub name: String,
    /// What that adds, relative.
    pub relative: f64,
    /// Half width of its 95 % interval.
    pub relative_ci95: Option<f64>,
}

/// Predictions of unseen mixtures against measurements.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Additivity {
    /// Mixtures.
    pub n: usize,
    /// Mean of predicted over measured, less 1.
    pub mean_error: f64,
    /// Half width of its 95 % interval.
    pub mean_error_ci95: Option<f64>,
    /// Mean absolute error, relative.
    pub mean_absolute_error: f64,
}

/// A class of modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassRow {
    /// Kind, and more where two classes are of one kind.
    pub name: String,
    /// Indices of its modules in the model.
    pub modules: Vec<u32>,
    /// So many neighbours of them are done at once, and have a cost together.
    #[serde(default = "one")]
    pub unit: usize,
    /// Bytes of their matrices.
    pub weight_bytes: u64,
    /// Bytes that a sweep reads and nobody has just written.
    #[serde(default)]
    pub cold_bytes: f64,
    /// How often the class is swept in each iteration of its own trials.
    pub sweeps: usize,
    /// In what company it is swept, so that its weights are as cold as in the whole program.
    #[serde(default)]
    pub ballast: Ballast,
    /// Share of the whole.
    pub share: Option<f64>,
    /// Energy of one run of one unit.
    pub energy: Option<Energy>,
    /// The same over that of the idle machine for the same time.
    pub dynamic_energy: Option<Energy>,
    /// Time of one run of one unit.
    pub time: Option<Timing>,
    /// Energy over time.
    pub power_w: Option<f64>,
    /// What another choice of trials might make of the energy beyond its interval, because classes do not quite add up: as
    /// a half width of 95 %, but no more trials of the same make it less.
    #[serde(default)]
    pub misfit_j: Option<f64>,
    /// Half width of the interval of the energy by the model of errors instead of the bootstrap.
    pub model_ci95_j: Option<f64>,
    /// In turns with its class but without the rest of the program, over the energy by regression.
    pub rotation_ratio: Option<f64>,
}

fn one() -> usize {
    1
}

/// A stretch of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineSpan {
    /// Index of the module in the model.
    pub module: u32,
    /// Since the begin of the run.
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
}

/// Power at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerSample {
    /// Since the begin of the phase's first window.
    pub time_s: f64,
    /// Watts.
    pub power_w: f64,
}

/// One window, in the order in which they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRow {
    /// `idle`, `whole`, `observed`, `replay`, `rotation`, `repeated`, `mixture` or `marker`.
    pub target: String,
    /// Index of the replayed module.
    pub module: Option<u32>,
    /// Round of trials.
    pub round: usize,
    /// Begin, in seconds since 1970 (UTC).
    pub start_unix_s: f64,
    /// Begin, since the begin of the phase's first window.
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
    /// How often the target was run.
    pub iterations: usize,
    /// Seconds that the device took for all iterations.
    pub run_s: f64,
    /// Processor time of this process.
    pub cpu_time_s: Option<f64>,
    /// Of an `observed` window: mean time of each module per iteration, in the order of the modules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub module_times_s: Vec<f64>,
    /// Sweeps of classes in each iteration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Extra>,
    /// Energy by the primary sensors, `null` when unresolved.
    pub energy_j: Option<f64>,
    /// Half width of the 95 % interval that the sensor's own sampling leaves open.
    #[serde(default)]
    pub sampling_j: Option<f64>,
    /// Where the energy comes from.
    #[serde(default = "unresolved")]
    pub provenance: Provenance,
    /// Why it is unresolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is unresolved for a reason that has nothing to do with how much it was, such as a reset counter.
    #[serde(default)]
    pub is_lost: bool,
    /// Energy by each sensor, in the order of the profile's sensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_sensor_j: Vec<Option<f64>>,
    /// What about the machine speaks against this trial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Temperature of the device at the window's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Mean clock of the device within the window, where it counts its cycles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_hz: Option<f64>,
}

fn unresolved() -> Provenance {
    Provenance::Unresolved
}
