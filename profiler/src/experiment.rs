//! Running a protocol: warm up, rest, then rounds of trials in random order, each long enough for its sensor.
//!
//! What a round consists of is told by the schedule; the order within a round is shuffled, so that drift of clock or
//! temperature falls on all trials alike. A trial repeats its target until the window outlasts what the sensor needs to
//! resolve it, or as often as the user said. Before the window opens, the target runs for as long as the sensor needs
//! to forget what was before. Rounds go on until the intervals are narrow enough or time is up.

mod record;

use std::ops::ControlFlow;
use std::sync::Arc;

use joulewise_engine::{ClockReading, Cost, ModuleId, Phase, Sweeps};

use crate::classes::{Surroundings, classes_of};
use crate::clock::Clock;
use crate::conditions::Look;
use crate::error::Result;
use crate::meter::{EnergyMeter, MeteredDevice};
use crate::observer::ModuleTimes;
pub use crate::protocol::Protocol;
use crate::schedule::{Basis, Length, Planned, Schedule};
use crate::sensor::estimator::WorkCounter;
use crate::statistics::Summary;
use crate::workload::{Repeat, Repeated, Workload};

pub use record::{Extra, Record, Seen, Target, Trial};

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

/// Who is told of an experiment's progress, and may end it.
pub trait Follow {
    /// After each trial; a break ends the experiment early.
    fn trial(&mut self, record: &Record, progress: Progress) -> ControlFlow<()>;

    /// After each round from the last planned one on: whether the intervals are narrow enough.
    fn is_precise(&mut self, record: &Record) -> bool;
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
    sets: Vec<Vec<ModuleId>>,
    device: MeteredDevice,
}

impl<'a> Experiment<'a> {
    /// An experiment whose windows outlast sensors of `update_period_s`.
    pub fn new(
        workload: &'a mut dyn Workload,
        meter: &'a EnergyMeter,
        device: MeteredDevice,
        update_period_s: f64,
        work: Option<Arc<WorkCounter>>,
        protocol: &'a Protocol,
    ) -> Self {
        let n_modules = workload.parts().iter().map(|part| part.module.index() + 1).max().unwrap_or(0);
        let mut whole_cost = Cost::default();
        workload.parts().iter().for_each(|part| whole_cost += part.cost);
        let times = ModuleTimes::new(n_modules);
        Experiment {
            workload,
            meter,
            protocol,
            update_period_s,
            work,
            times,
            whole_cost,
            sets: Vec::new(),
            device,
        }
    }

    /// Runs all trials that `earlier` does not hold: a default one, or that of an interrupted experiment.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(mut self, earlier: Record, follow: &mut dyn Follow) -> Result<Record> {
        let begin_s = self.meter.clock().now_s();
        let mut record = earlier;
        record.is_complete = false;
        record.warm_up_iterations = self.warm_up()?;
        if record.classes.is_empty() {
            let around = Surroundings {
                caches: self.workload.caches(),
                overlaps: matches!(self.device, MeteredDevice::Gpu { .. }),
                has_past: self.workload.shape().phase == Phase::Decode,
            };
            record.classes = classes_of(self.workload.parts(), &self.protocol.apart, around);
        }
        self.sets = record.classes.iter().map(|class| class.modules.clone()).collect();
        let schedule = self.schedule(&mut record)?;
        let planned_rounds = self.protocol.trials.max(1);
        let mut total: usize = (0..planned_rounds).map(|round| schedule.round(round).len()).sum();
        let n_rests = if self.protocol.idle_s > 0.0 { 3.0 } else { 0.0 };
        let mut remaining_s: f64 = n_rests * self.rest_s()
            + (0..planned_rounds)
                .flat_map(|round| schedule.round(round).into_iter().map(move |planned| (round, planned)))
                .filter(|(round, planned)| !record.has(planned, *round))
                .map(|(_, planned)| planned.trial_s)
                .sum::<f64>();
        let mut done = 0;
        if self.protocol.marker && !record.trials.iter().any(|trial| trial.target == Target::Marker) {
            self.mark(&mut record)?;
        }
        self.rest(0, &mut record);
        if follow.trial(&record, Progress { done, total, remaining_s }).is_break() {
            return Ok(record);
        }
        let mut round = 0;
        loop {
            if round == planned_rounds.div_ceil(2) {
                self.rest(round, &mut record);
            }
            for planned in schedule.round(round) {
                if !record.has(&planned, round) {
                    let trial = self.trial(&planned, round)?;
                    if planned.target == Target::Observed {
                        record.timeline.clear();
                        record.timeline.extend_from_slice(self.times.last_run());
                    }
                    record.trials.push(trial);
                    remaining_s = (remaining_s - planned.trial_s).max(0.0);
                }
                done += 1;
                if follow.trial(&record, Progress { done, total, remaining_s }).is_break() {
                    return Ok(record);
                }
            }
            round += 1;
            let elapsed_s = self.meter.clock().now_s() - begin_s;
            let is_late = elapsed_s > self.protocol.time_limit_s && round >= self.protocol.min_trials;
            if is_late && round < planned_rounds {
                record.notes.push(format!("time was up after {round} of {planned_rounds} rounds"));
            }
            if round < planned_rounds && !is_late {
                continue;
            }
            if round >= self.protocol.max_trials || is_late || follow.is_precise(&record) {
                break;
            }
            total += schedule.round(round).len();
            remaining_s = schedule.round(round).iter().map(|planned| planned.trial_s).sum();
        }
        self.rest(round, &mut record);
        record.is_complete = true;
        Ok(record)
    }

    fn schedule(&mut self, record: &mut Record) -> Result<Schedule> {
        let mut protocol = self.protocol.clone();
        if protocol.regression
            && let Err(reason) = self.workload.repetition(&self.sets)
        {
            record.notes.push(format!("modules cannot be run extra times here: {reason}"));
            protocol.regression = false;
        }
        let sweeps = (!record.sweeps.is_empty()).then(|| record.sweeps.clone());
        let basis = Basis { classes: &record.classes, sweeps, update_period_s: self.update_period_s };
        let (schedule, replayed) = Schedule::new(self.workload, &mut self.times, &protocol, &basis)?;
        record.replayed = replayed;
        record.sweeps = schedule.sweeps();
        if protocol.regression && schedule.regression_rounds == 0 {
            record.notes.push(format!(
                "regression would take longer than {:.0} s for two rounds and was left out",
                protocol.regression_limit_s
            ));
        }
        Ok(schedule)
    }

    /// Runs the whole program until its time has settled, and the device's temperature where it tells one; returns the
    /// iterations that took.
    fn warm_up(&mut self) -> Result<usize> {
        const WINDOW: usize = 5;
        const TEMPERATURE_EVERY_S: f64 = 0.5;
        let (meter, device) = (self.meter, self.device);
        let clock = meter.clock();
        let mut look = meter.look(device);
        let start_s = clock.now_s();
        let mut is_warm = look.temperature_c.is_none();
        let mut whole = self.workload.repeat(ModuleId::ROOT)?;
        let mut times = Vec::new();
        loop {
            times.push(whole.run(1)?);
            let last = Summary::of(&times[times.len().saturating_sub(WINDOW)..]);
            let variation = last.standard_deviation.map_or(f64::INFINITY, |sd| sd / last.mean);
            let now_s = clock.now_s();
            if !is_warm && now_s - look.time_s >= TEMPERATURE_EVERY_S {
                let next = meter.look(device);
                let change = next.temperature_c.zip(look.temperature_c).map(|(now_c, then_c)| now_c - then_c);
                let slope = change.map(|change| change.abs() / (next.time_s - look.time_s));
                is_warm = slope.is_none_or(|slope| slope < self.protocol.warm_up_kelvin_per_s);
                look = next;
            }
            let is_settled = times.len() >= WINDOW && variation < self.protocol.warm_up_variation && is_warm;
            let is_late = times.len() >= 2 && now_s - start_s > self.protocol.warm_up_limit_s;
            if is_settled || is_late {
                return Ok(times.len());
            }
        }
    }

    /// A square wave of load, whose windows are the load and nothing but the load: an external meter's log is aligned by
    /// it.
    fn mark(&mut self, record: &mut Record) -> Result<()> {
        const HALF_PERIOD_S: f64 = 0.25;
        const PERIODS: usize = 8;
        for _ in 0..PERIODS {
            let clock = self.meter.clock();
            clock.wait_until(clock.now_s() + HALF_PERIOD_S);
            let mut whole = self.workload.repeat(ModuleId::ROOT)?;
            self.meter.mark(true)?;
            let window = self.meter.begin();
            let length = Length::Window { window_s: HALF_PERIOD_S, expected: 1 };
            let (iterations, run_s) = length.fill(clock, &mut |iterations| whole.run(iterations))?;
            let closed = self.meter.close(window);
            self.meter.mark(false)?;
            record.trials.push(Trial {
                target: Target::Marker,
                round: 0,
                start_s: closed.start_s,
                duration_s: closed.duration_s,
                run_s,
                iterations,
                extra: Vec::new(),
                cpu_time_s: closed.cpu_time_s,
                part_s: Vec::new(),
                seen: None,
                flags: Vec::new(),
                temperature_c: None,
                clock_hz: None,
            });
        }
        Ok(())
    }

    fn rest_s(&self) -> f64 {
        self.protocol.idle_s.max(4.0 * self.update_period_s)
    }

    /// Measures the idle machine, unless that was done at this point before.
    fn rest(&self, round: usize, record: &mut Record) {
        let is_done = record.trials.iter().any(|trial| trial.target == Target::Idle && trial.round == round);
        if self.protocol.idle_s <= 0.0 || is_done {
            return;
        }
        let clock = self.meter.clock();
        let duration_s = self.rest_s();
        // The sensor's next update still tells of the load before.
        clock.wait_until(clock.now_s() + 2.0 * self.update_period_s);
        let before = self.meter.look(self.device);
        let window = self.meter.begin();
        clock.wait_until(clock.now_s() + duration_s);
        let closed = self.meter.close(window);
        let after = self.meter.look(self.device);
        record.trials.push(Trial {
            target: Target::Idle,
            round,
            start_s: closed.start_s,
            duration_s: closed.duration_s,
            run_s: closed.duration_s,
            iterations: 1,
            extra: Vec::new(),
            cpu_time_s: closed.cpu_time_s,
            part_s: Vec::new(),
            seen: None,
            // A clock that falls at rest is as it should be.
            flags: Look { clock_hz: None, ..after.clone() }.flags_since(&before),
            temperature_c: after.temperature_c,
            clock_hz: None,
        });
    }

    fn trial(&mut self, planned: &Planned, round: usize) -> Result<Trial> {
        let cost = self.cost(planned);
        let device = self.device;
        let Experiment { workload, times, meter, sets, work, .. } = self;
        let sweeps: Vec<Sweeps> =
            planned.extra.iter().map(|e| Sweeps { set: e.class, count: e.sweeps }).collect();
        times.clear();
        let lead_in = planned.length.lead_in(self.update_period_s);
        let mut before = Look::default();
        let mut measured = |target: &mut dyn Repeat| {
            if lead_in > 0 {
                target.run(lead_in)?;
            }
            before = meter.look(device);
            let earlier = target.clock()?;
            let window = meter.begin();
            let (n, run_s) = planned.length.fill(meter.clock(), &mut |iterations| target.run(iterations))?;
            if let Some(work) = work {
                let bytes = cost.bytes_read + cost.bytes_written;
                work.add((cost.flops * n as f64) as u64, (bytes * n as f64) as u64);
            }
            let closed = meter.close(window);
            let clock_hz = target.clock()?.zip(earlier).and_then(|(now, earlier)| now.mean_hz_since(earlier));
            Ok::<_, crate::ProfilerError>((closed, n, run_s, clock_hz))
        };
        let (closed, n, run_s, clock_hz) = match planned.target {
            Target::Observed => {
                measured(&mut Observing { workload: &mut **workload, times, clock: meter.clock() })?
            }
            Target::Whole | Target::Idle | Target::Marker => {
                measured(&mut *workload.repeat(ModuleId::ROOT)?)?
            }
            Target::Replay(module) => measured(&mut *workload.repeat(module)?)?,
            Target::Repeated | Target::Mixture => {
                let repetition = workload.repetition(sets)?;
                measured(&mut Sweeping { repetition, sweeps: &sweeps, with_whole: true })?
            }
            Target::Rotation(_) => {
                let repetition = workload.repetition(sets)?;
                measured(&mut Sweeping { repetition, sweeps: &sweeps, with_whole: false })?
            }
        };
        let after = self.meter.look(device);
        let is_observed = planned.target == Target::Observed;
        let parts = if is_observed { self.workload.parts() } else { &[] };
        Ok(Trial {
            target: planned.target,
            round,
            start_s: closed.start_s,
            duration_s: closed.duration_s,
            run_s,
            iterations: n,
            extra: planned.extra.clone(),
            cpu_time_s: closed.cpu_time_s,
            part_s: parts.iter().map(|part| self.times.mean_s(part.module)).collect(),
            seen: None,
            flags: after.flags_since(&before),
            temperature_c: after.temperature_c,
            clock_hz,
        })
    }

    /// Work of one iteration, by count.
    fn cost(&self, planned: &Planned) -> Cost {
        let of = |module: &ModuleId| {
            let part = self.workload.parts().iter().find(|part| part.module == *module);
            part.map(|part| part.cost).unwrap_or_default()
        };
        let mut cost = match planned.target {
            Target::Replay(module) => of(&module),
            Target::Rotation(_) => Cost::default(),
            _ => self.whole_cost,
        };
        for extra in &planned.extra {
            for _ in 0..extra.sweeps {
                self.sets[extra.class].iter().for_each(|module| cost += of(module));
            }
        }
        cost
    }
}

/// The whole program cut at modules, over and over.
struct Observing<'a> {
    workload: &'a mut dyn Workload,
    times: &'a mut ModuleTimes,
    clock: &'a dyn Clock,
}

impl Repeat for Observing<'_> {
    fn run(&mut self, iterations: usize) -> Result<f64> {
        let start_s = self.clock.now_s();
        for _ in 0..iterations {
            self.workload.observe(self.times)?;
        }
        Ok(self.clock.now_s() - start_s)
    }
}

/// The sweeps of a trial, over and over.
struct Sweeping<'a> {
    repetition: Box<dyn Repeated + 'a>,
    sweeps: &'a [Sweeps],
    /// Whether they stand behind the whole program.
    with_whole: bool,
}

impl Repeat for Sweeping<'_> {
    fn run(&mut self, iterations: usize) -> Result<f64> {
        match self.with_whole {
            true => self.repetition.run(iterations, self.sweeps),
            false => self.repetition.rotate(iterations, self.sweeps),
        }
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        self.repetition.clock()
    }
}
