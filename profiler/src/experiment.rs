//! The measurement protocol: warm up, rest, then trials in random order, each long enough for its sensor.
//!
//! One round measures the whole program in one piece, the whole program cut at modules, and (in the first rounds)
//! each module by itself; the order within a round is shuffled, so that drift of clock or temperature falls on all of
//! them alike. A trial repeats its target until the window outlasts what the sensor needs to resolve it, or as often
//! as the user said.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use joulewise_engine::{Cost, ModuleId, Span};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::Result;
use crate::meter::EnergyMeter;
use crate::observer::ModuleTimes;
use crate::sensor::estimator::WorkCounter;
use crate::statistics::Summary;
use crate::workload::{Part, Workload};

/// How to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Protocol {
    /// Trials of the whole program.
    pub trials: usize,
    /// Iterations of each trial; `None`: as many as its window needs.
    pub iterations: Option<usize>,
    /// Shortest window of a whole-program trial.
    pub min_window_s: f64,
    /// Sensor updates that such a window has to outlast.
    pub min_updates: f64,
    /// Trials of each module by itself, 0 for none. Never more than `trials`.
    pub replay_trials: usize,
    /// Shortest window of such a trial.
    pub replay_min_window_s: f64,
    /// Sensor updates that such a window has to outlast.
    pub replay_min_updates: f64,
    /// When replaying every module would take longer, only the first, middle and last of equal ones are replayed.
    pub replay_limit_s: f64,
    /// Rest before the trials, for the power of the idle machine.
    pub idle_s: f64,
    /// Warm-up ends when the last iterations vary by less than this (standard deviation over mean).
    pub warm_up_variation: f64,
    /// Or after so long.
    pub warm_up_limit_s: f64,
    /// Seed of the order of trials.
    pub seed: u64,
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol {
            trials: 5,
            iterations: None,
            min_window_s: 0.5,
            min_updates: 50.0,
            replay_trials: 3,
            replay_min_window_s: 0.04,
            replay_min_updates: 12.0,
            replay_limit_s: 180.0,
            idle_s: 1.0,
            warm_up_variation: 0.05,
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
            min_window_s: 0.1,
            min_updates: 12.0,
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
    /// Processor time of this process within the window.
    pub cpu_time_s: Option<f64>,
    /// Of an observed trial: mean seconds per iteration, in the order of the parts.
    pub part_s: Vec<f64>,
}

/// All trials so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// In the order in which they were run.
    pub trials: Vec<Trial>,
    /// The last observed run, module by module.
    pub timeline: Vec<Span>,
    /// Modules that are replayed: all, or a sample of equal ones.
    pub replayed: Vec<ModuleId>,
    /// Iterations of the warm-up.
    pub warm_up_iterations: usize,
    /// Whether all planned trials were run.
    pub is_complete: bool,
}

/// How far an experiment is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Trials done.
    pub done: usize,
    /// Trials in all.
    pub total: usize,
    /// What the rest will take.
    pub remaining_s: f64,
}

/// An experiment on one workload.
pub struct Experiment<'a> {
    workload: &'a mut dyn Workload,
    meter: &'a EnergyMeter,
    protocol: &'a Protocol,
    /// Update period of the sensors that matter.
    update_period_s: f64,
    /// Where an estimator counts work.
    work: Option<Arc<WorkCounter>>,
    times: ModuleTimes,
    whole_cost: Cost,
}

/// A target with the length of its trials.
#[derive(Clone, Copy, Debug)]
struct Planned {
    target: Target,
    length: Length,
    /// What a trial will take, preparation included.
    trial_s: f64,
}

/// How long a trial goes on.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// So many iterations, as the user said.
    Iterations(usize),
    /// Until a window is filled; the expected iterations are run first.
    Window { window_s: f64, expected: usize },
}

impl Length {
    /// Runs iterations until the trial is long enough: how many there were, and the seconds they took.
    fn fill(self, run: &mut dyn FnMut(usize) -> Result<f64>) -> Result<(usize, f64)> {
        let (window_s, expected) = match self {
            Length::Iterations(iterations) => return Ok((iterations, run(iterations)?)),
            Length::Window { window_s, expected } => (window_s, expected),
        };
        let start_s = clock::now_s();
        let (mut iterations, mut run_s) = (expected, run(expected)?);
        loop {
            // What was expected rests on one look, at a machine that may have been busy just then.
            let elapsed_s = clock::now_s() - start_s;
            if elapsed_s >= window_s {
                return Ok((iterations, run_s));
            }
            let missing = ((window_s - elapsed_s) * iterations as f64 / elapsed_s.max(1e-9)).ceil();
            let more = (missing.max(1.0) as usize).min(iterations * 10);
            run_s += run(more)?;
            iterations += more;
        }
    }
}

impl<'a> Experiment<'a> {
    /// An experiment whose windows outlast sensors of `update_period_s`.
    pub fn new(
        workload: &'a mut dyn Workload,
        meter: &'a EnergyMeter,
        update_period_s: f64,
        work: Option<Arc<WorkCounter>>,
        protocol: &'a Protocol,
    ) -> Self {
        let n_modules = workload.parts().iter().map(|part| part.module.index() + 1).max().unwrap_or(0);
        let mut whole_cost = Cost::default();
        workload.parts().iter().for_each(|part| whole_cost += part.cost);
        let times = ModuleTimes::new(n_modules);
        Experiment { workload, meter, protocol, update_period_s, work, times, whole_cost }
    }

    /// Runs all trials. `on_trial` sees the record after each and may end the experiment early.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(mut self, on_trial: &mut dyn FnMut(&Record, Progress) -> ControlFlow<()>) -> Result<Record> {
        let mut record = Record { warm_up_iterations: self.warm_up()?, ..Record::default() };
        if self.protocol.idle_s > 0.0 {
            let trial = self.idle();
            record.trials.push(trial);
        }
        let (rounds, replayed) = self.plan()?;
        record.replayed = replayed;
        let total = rounds.iter().map(Vec::len).sum();
        let mut remaining_s: f64 = rounds.iter().flatten().map(|planned| planned.trial_s).sum();
        let mut done = 0;
        let begin = Progress { done, total, remaining_s };
        if on_trial(&record, begin).is_break() {
            return Ok(record);
        }
        for (round, planned) in rounds.iter().enumerate() {
            for planned in planned {
                let trial = self.trial(planned, round)?;
                if planned.target == Target::Observed {
                    record.timeline.clear();
                    record.timeline.extend_from_slice(self.times.last_run());
                }
                record.trials.push(trial);
                done += 1;
                remaining_s = (remaining_s - planned.trial_s).max(0.0);
                if on_trial(&record, Progress { done, total, remaining_s }).is_break() {
                    return Ok(record);
                }
            }
        }
        record.is_complete = true;
        Ok(record)
    }

    /// Runs the whole program until its time has settled; returns the iterations that took.
    fn warm_up(&mut self) -> Result<usize> {
        const WINDOW: usize = 5;
        let start_s = clock::now_s();
        let mut whole = self.workload.repeat(ModuleId::ROOT)?;
        let mut times = Vec::new();
        loop {
            times.push(whole.run(1)?);
            let last = Summary::of(&times[times.len().saturating_sub(WINDOW)..]);
            let variation = last.standard_deviation.map_or(f64::INFINITY, |sd| sd / last.mean);
            let is_settled = times.len() >= WINDOW && variation < self.protocol.warm_up_variation;
            let is_late = times.len() >= 2 && clock::now_s() - start_s > self.protocol.warm_up_limit_s;
            if is_settled || is_late {
                return Ok(times.len());
            }
        }
    }

    fn idle(&self) -> Trial {
        let duration_s = self.protocol.idle_s.max(4.0 * self.update_period_s);
        // The sensor's next update still tells of the load before.
        thread::sleep(Duration::from_secs_f64(2.0 * self.update_period_s));
        let window = self.meter.begin();
        thread::sleep(Duration::from_secs_f64(duration_s));
        let closed = self.meter.close(window);
        Trial {
            target: Target::Idle,
            round: 0,
            start_s: closed.start_s,
            duration_s: closed.duration_s,
            run_s: closed.duration_s,
            iterations: 1,
            cpu_time_s: closed.cpu_time_s,
            part_s: Vec::new(),
        }
    }

    /// The trials of each round, in shuffled order, and the modules that are replayed.
    fn plan(&mut self) -> Result<(Vec<Vec<Planned>>, Vec<ModuleId>)> {
        let protocol = self.protocol;
        let window_s = protocol.min_window_s.max(protocol.min_updates * self.update_period_s);
        let replay_window_s =
            protocol.replay_min_window_s.max(protocol.replay_min_updates * self.update_period_s);
        self.times.clear();
        let whole_s = self.workload.repeat(ModuleId::ROOT)?.run(1)?;
        self.workload.observe(&mut self.times)?;
        let observed_s: f64 = self.workload.parts().iter().map(|part| self.times.mean_s(part.module)).sum();
        let planned = |target, single_s: f64, window_s: f64, overhead_s: f64| {
            let expected = (window_s / single_s.max(1e-9)).ceil().max(1.0) as usize;
            let (length, iterations) = match protocol.iterations {
                Some(iterations) => (Length::Iterations(iterations.max(1)), iterations.max(1)),
                None => (Length::Window { window_s, expected }, expected),
            };
            Planned { target, length, trial_s: overhead_s + iterations as f64 * single_s }
        };
        let wholes = [
            planned(Target::Whole, whole_s, window_s, 0.0),
            planned(Target::Observed, observed_s.max(whole_s), window_s, 0.0),
        ];
        let replay_rounds = protocol.replay_trials.min(protocol.trials);
        // Before a replay, everything that feeds the module is run once: half the program on average.
        let cost_s = |n: usize| n as f64 * replay_rounds as f64 * (replay_window_s + whole_s / 2.0);
        let parts = self.workload.parts();
        let mut replayed: Vec<ModuleId> = parts.iter().map(|part| part.module).collect();
        if cost_s(replayed.len()) > protocol.replay_limit_s {
            replayed = sample_of_equals(parts);
        }
        if replay_rounds == 0 {
            replayed.clear();
        }
        let mut replays = Vec::with_capacity(replayed.len());
        for &module in &replayed {
            // An observed module carries two time marks; the first replays tell its own time.
            let observed_s = self.times.mean_s(module).max(1e-7);
            let probe = (1e-3 / observed_s).ceil().min(1000.0) as usize;
            let single_s = self.workload.repeat(module)?.run(probe)? / probe as f64;
            replays.push(planned(Target::Replay(module), single_s, replay_window_s, whole_s / 2.0));
        }
        let mut random = Pcg64::seed_from_u64(protocol.seed);
        let rounds = (0..protocol.trials).map(|round| {
            // The whole in one piece and the whole cut stand side by side: their ratio is the closure in time, and the
            // less time between them, the less can change.
            let mut pair = wholes.to_vec();
            pair.shuffle(&mut random);
            let mut blocks = vec![pair];
            if round < replay_rounds {
                blocks.extend(replays.iter().map(|replay| vec![*replay]));
            }
            blocks.shuffle(&mut random);
            blocks.concat()
        });
        Ok((rounds.collect(), replayed))
    }

    fn trial(&mut self, planned: &Planned, round: usize) -> Result<Trial> {
        self.times.clear();
        let (window, (n, run_s), cost) = match planned.target {
            Target::Observed => {
                let Experiment { workload, times, meter, .. } = self;
                let window = meter.begin();
                let filled = planned.length.fill(&mut |iterations| {
                    let start_s = clock::now_s();
                    for _ in 0..iterations {
                        workload.observe(times)?;
                    }
                    Ok(clock::now_s() - start_s)
                })?;
                (window, filled, self.whole_cost)
            }
            Target::Whole | Target::Idle => {
                let mut whole = self.workload.repeat(ModuleId::ROOT)?;
                let window = self.meter.begin();
                (window, planned.length.fill(&mut |iterations| whole.run(iterations))?, self.whole_cost)
            }
            Target::Replay(module) => {
                let cost = self.workload.parts().iter().find(|part| part.module == module);
                let cost = cost.map(|part| part.cost).unwrap_or_default();
                let mut replay = self.workload.repeat(module)?;
                // What feeds the module has just run, and a device may still be at it.
                replay.run(1)?;
                let window = self.meter.begin();
                (window, planned.length.fill(&mut |iterations| replay.run(iterations))?, cost)
            }
        };
        if let Some(work) = &self.work {
            let bytes = cost.bytes_read + cost.bytes_written;
            work.add((cost.flops * n as f64) as u64, (bytes * n as f64) as u64);
        }
        let closed = self.meter.close(window);
        let is_observed = planned.target == Target::Observed;
        let parts = if is_observed { self.workload.parts() } else { &[] };
        Ok(Trial {
            target: planned.target,
            round,
            start_s: closed.start_s,
            duration_s: closed.duration_s,
            run_s,
            iterations: n,
            cpu_time_s: closed.cpu_time_s,
            part_s: parts.iter().map(|part| self.times.mean_s(part.module)).collect(),
        })
    }
}

/// Whether two modules do the same work on the same formats, in different layers: one may then stand for the other.
pub fn are_equal(a: &Part, b: &Part) -> bool {
    a.kind == b.kind
        && a.block.is_some() == b.block.is_some()
        && a.format == b.format
        && a.cost == b.cost
        && a.path.rsplit('.').next() == b.path.rsplit('.').next()
}

/// The first, middle and last of each set of equal modules.
fn sample_of_equals(parts: &[Part]) -> Vec<ModuleId> {
    let is_sampled = |part: &&Part| {
        let equals: Vec<ModuleId> =
            parts.iter().filter(|other| are_equal(part, other)).map(|other| other.module).collect();
        let picks = [Some(&equals[0]), equals.get(equals.len() / 2), equals.last()];
        picks.contains(&Some(&part.module))
    };
    parts.iter().filter(is_sampled).map(|part| part.module).collect()
}
