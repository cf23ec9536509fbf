//! From trials to joules per module.
//!
//! Several ways stand side by side. **First-order**: a module's share of the time within the cut program, times the mean
//! power of that trial. It is always there and always sums to what the cut program used, so its sum checks only what
//! cutting itself cost; it is wrong where modules differ in power. **Replay**: each module by itself, over and over,
//! until the sensor resolves it. It measures each module's own power, with its weights as warm as caches make them.
//! **Rotation**: the same in turns with the other modules of its class, whose weights are then as cold as the class is
//! large.
//! **Regression**, the primary one: what the whole program costs more when a class of modules is run extra times within
//! it (module `classes`): a module's energy where it counts, at the whole program's clocks, temperature and cache state.
//!
//! All are held against the whole program in one piece, measured in windows of its own, which the regression has not
//! seen. What is left over is a row, `unattributed`, and nothing is rescaled.

mod classes;
pub(crate) mod conditions;
mod notes;
mod thermometer;

use joulewise_engine::{Cost, ModuleId, Phase};

use crate::classes::are_equal;
use crate::clock;
use crate::energy::{Energy, EnergyReading, Provenance};
use crate::experiment::{Protocol, Record, Seen, Target, Trial};
use crate::metrics::{Metric, Value};
use crate::report::json::{
    Attribution, Closure, EnergyClosure, GroupRow, ModuleRow, PhaseProfile, TimeClosure, TimelineSpan,
    Timing, Whole, WindowRow,
};
use crate::workload::{Part, WorkloadShape};
use classes::Classes;

/// How far the sum of replayed modules may lie from the whole for reports to show it.
const REPLAY_CLOSES_WITHIN: f64 = 0.10;

/// The energy between two moments, one reading per sensor.
pub type EnergyBetween<'a> = &'a dyn Fn(f64, f64) -> Vec<EnergyReading>;

/// What a phase is attributed from.
pub struct Basis<'a> {
    /// Shape of an iteration.
    pub shape: WorkloadShape,
    /// The modules.
    pub parts: &'a [Part],
    /// The trials.
    pub record: &'a Record,
    /// What the sensors saw.
    pub energy_between: EnergyBetween<'a>,
    /// Indices of the sensors that count.
    pub primary: &'a [usize],
    /// The protocol that was followed.
    pub protocol: &'a Protocol,
}

/// A trial with its energy.
struct Resolved<'a> {
    trial: &'a Trial,
    seen: Seen,
    /// At its end, finer than it was read.
    temperature_c: Option<f64>,
}

impl Resolved<'_> {
    fn per_iteration(&self) -> Energy {
        self.seen.energy.scaled(1.0 / self.trial.iterations as f64)
    }
}

impl Basis<'_> {
    fn resolved(&self) -> Vec<Resolved<'_>> {
        let pairs = self.record.trials.iter().zip(thermometer::temperatures_c(&self.record.trials));
        pairs
            .map(|(trial, temperature_c)| Resolved { trial, seen: self.seen(trial), temperature_c })
            .collect()
    }

    fn seen(&self, trial: &Trial) -> Seen {
        if let Some(seen) = &trial.seen {
            return seen.clone();
        }
        let readings = (self.energy_between)(trial.start_s, trial.start_s + trial.duration_s);
        let chosen: Vec<&EnergyReading> = self.primary.iter().filter_map(|&i| readings.get(i)).collect();
        let silence = chosen.iter().find(|reading| reading.reason.is_some());
        Seen {
            energy: Energy::of_window(&chosen),
            by_sensor: readings.iter().map(|reading| Energy::of_window(&[reading])).collect(),
            reason: silence
                .and_then(|reading| Some(format!("{}: {}", reading.sensor, reading.reason.as_ref()?))),
            is_lost: chosen.iter().any(|reading| reading.is_lost),
        }
    }
}

/// Turns the trials of a workload into a phase of a profile.
pub fn attribute(basis: &Basis<'_>) -> PhaseProfile {
    let Basis { shape, parts, record, .. } = *basis;
    let resolved = basis.resolved();
    let trials = Trials { parts, resolved: &resolved };
    let classes = Classes::fit(&trials, record, basis.protocol.bootstrap_draws, basis.protocol.seed);
    let whole = trials.whole();
    let modules: Vec<ModuleRow> = (0..parts.len()).map(|index| trials.module(index, &classes)).collect();
    let closure = trials.closure(&whole, &modules, &classes);
    let attribution = attribution(&closure);
    let borne = parts.iter().filter(|part| classes.is_borne(part.module));
    let borne: Vec<&str> = borne.map(|part| part.kind.name()).collect();
    PhaseProfile {
        name: shape.phase.name().to_owned(),
        batch: shape.batch,
        tokens: shape.tokens,
        kv_length: shape.kv_length,
        is_complete: record.is_complete,
        warm_up_iterations: record.warm_up_iterations,
        metrics: metrics(shape, &whole),
        attribution,
        layers: trials.groups(&modules, layer_names(parts), &classes),
        kinds: trials.groups(&modules, kind_names(parts), &classes),
        classes: classes.rows(&whole),
        regression: classes.summary(),
        timeline: timeline(record),
        power_samples: Vec::new(),
        windows: windows(&resolved),
        notes: notes::all(&trials, record, &whole, &closure, attribution, &borne),
        closure,
        whole,
        modules,
    }
}

/// Whether the whole, and every class above a share of it, is known as well as the protocol asks for.
pub fn is_precise(basis: &Basis<'_>) -> bool {
    let resolved = basis.resolved();
    let trials = Trials { parts: basis.parts, resolved: &resolved };
    let whole = trials.whole().energy;
    let target = basis.protocol.target_relative_ci;
    let relative = whole.energy_j.zip(whole.ci95_j).map(|(energy_j, ci95_j)| ci95_j / energy_j);
    let is_known = relative.is_some_and(|relative| relative <= target);
    is_known && Classes::fit(&trials, basis.record, 0, 0).are_precise(basis.protocol)
}

/// The trials of one workload, by target.
struct Trials<'a> {
    parts: &'a [Part],
    resolved: &'a [Resolved<'a>],
}

impl Trials<'_> {
    /// The trials of a target. Windows that were lost (a counter was reset, a sensor failed) are left out where others
    /// are left: losing them had nothing to do with what they held.
    fn of(&self, target: Target) -> impl Iterator<Item = &Resolved<'_>> {
        let of_target = move |resolved: &&Resolved<'_>| resolved.trial.target == target;
        let is_any_left = self.resolved.iter().filter(of_target).any(|resolved| !resolved.seen.is_lost);
        self.resolved.iter().filter(of_target).filter(move |resolved| !is_any_left || !resolved.seen.is_lost)
    }

    fn whole(&self) -> Whole {
        let trials: Vec<&Resolved<'_>> = self.of(Target::Whole).collect();
        let per_iteration = |value: fn(&Trial) -> Option<f64>| -> Option<Vec<f64>> {
            trials.iter().map(|t| Some(value(t.trial)? / t.trial.iterations as f64)).collect()
        };
        let time = Timing::of(&per_iteration(|trial| Some(trial.run_s)).unwrap_or_default());
        let energies: Vec<Energy> = trials.iter().map(|trial| trial.per_iteration()).collect();
        let energy = Energy::mean(&energies);
        // Window lengths, not device times: power is what the sensor saw over its window.
        let mean_window_s = Timing::of(&per_iteration(|trial| Some(trial.duration_s)).unwrap_or_default());
        let idle_power = self.idle_power();
        let idle_energy = idle_power.as_ref().map(|power| power.scaled(mean_window_s.duration_s));
        let n_sensors = trials.iter().map(|trial| trial.seen.by_sensor.len()).min().unwrap_or(0);
        let by_sensor = (0..n_sensors).map(|sensor| {
            let of_sensor: Vec<Energy> = trials
                .iter()
                .map(|t| t.seen.by_sensor[sensor].scaled(1.0 / t.trial.iterations as f64))
                .collect();
            Energy::mean(&of_sensor)
        });
        let cost = self.cost(&|_| true);
        Whole {
            iterations: trials.iter().map(|trial| trial.trial.iterations).sum::<usize>()
                / trials.len().max(1),
            time,
            dynamic_energy: match &idle_energy {
                Some(idle_energy) => energy.minus(idle_energy),
                None => Energy::unresolved(&energy.sensor, &energy.scope, None),
            },
            power_w: energy.energy_j.map(|energy_j| energy_j / mean_window_s.duration_s),
            idle_power_w: idle_power.and_then(|power| power.energy_j),
            idle_powers_w: self
                .of(Target::Idle)
                .filter_map(|idle| Some(idle.seen.energy.energy_j? / idle.trial.duration_s))
                .collect(),
            cpu_time_s: per_iteration(|trial| trial.cpu_time_s).map(|values| Timing::of(&values).duration_s),
            by_sensor: by_sensor.collect(),
            energy,
            flops: cost.flops,
            bytes_read: cost.bytes_read,
            bytes_written: cost.bytes_written,
        }
    }

    /// Mean power of the idle machine: joules of one second.
    fn idle_power(&self) -> Option<Energy> {
        let powers: Vec<Energy> =
            self.of(Target::Idle).map(|idle| idle.seen.energy.scaled(1.0 / idle.trial.duration_s)).collect();
        (!powers.is_empty()).then(|| Energy::mean(&powers))
    }

    fn cost(&self, belongs: &dyn Fn(usize) -> bool) -> Cost {
        let mut cost = Cost::default();
        let chosen = self.parts.iter().enumerate().filter(|(index, _)| belongs(*index));
        chosen.for_each(|(_, part)| cost += part.cost);
        cost
    }

    /// Time of some parts together in each observed trial.
    fn observed_s(&self, belongs: &dyn Fn(usize) -> bool) -> Vec<f64> {
        let sum = |trial: &Trial| {
            trial.part_s.iter().enumerate().filter(|(i, _)| belongs(*i)).map(|(_, s)| s).sum()
        };
        self.of(Target::Observed).map(|resolved| sum(resolved.trial)).collect()
    }

    /// Their time times the mean power, trial by trial: modules of one trial share its power, so their errors are not
    /// independent and the sum must be formed first.
    fn first_order(&self, belongs: &dyn Fn(usize) -> bool) -> Energy {
        let times_s = self.observed_s(belongs);
        let energies: Vec<Energy> = self
            .of(Target::Observed)
            .zip(&times_s)
            .map(|(resolved, time_s)| resolved.seen.energy.scaled(time_s / resolved.trial.duration_s))
            .collect();
        attributed(Energy::mean(&energies))
    }

    fn module(&self, index: usize, classes: &Classes<'_>) -> ModuleRow {
        let part = &self.parts[index];
        let times_s = self.observed_s(&|other| other == index);
        let (replay, replay_time, is_replayed) = self.replay(part);
        ModuleRow {
            id: part.module.0,
            path: part.path.clone(),
            kind: part.kind.name().to_owned(),
            block: part.block,
            format: part.format.clone(),
            weight_bytes: part.weight_bytes,
            flops: part.cost.flops,
            bytes_read: part.cost.bytes_read,
            bytes_written: part.cost.bytes_written,
            time: Timing::of(&times_s),
            time_share: self.share(&times_s),
            replay_time,
            first_order: self.first_order(&|other| other == index),
            replay,
            is_replayed,
            rotation: classes.rotation(part.module),
            regression: classes.energy(&[part.module]),
            regression_time: classes.time(&[part.module]),
        }
    }

    /// Energy and time of a module by itself, or of its equals when it was not replayed.
    fn replay(&self, part: &Part) -> (Option<Energy>, Option<Timing>, bool) {
        let of = |module: ModuleId| self.of(Target::Replay(module));
        let is_replayed = of(part.module).next().is_some();
        let stands_in =
            |other: &Part| if is_replayed { other.module == part.module } else { are_equal(part, other) };
        let trials: Vec<&Resolved<'_>> =
            self.parts.iter().filter(|other| stands_in(other)).flat_map(|other| of(other.module)).collect();
        if trials.is_empty() {
            return (None, None, false);
        }
        let energies: Vec<Energy> = trials.iter().map(|trial| trial.per_iteration()).collect();
        let times_s: Vec<f64> = trials.iter().map(|t| t.trial.run_s / t.trial.iterations as f64).collect();
        let mean = Energy::mean(&energies);
        let energy = if is_replayed { mean } else { attributed(mean) };
        (Some(energy), Some(Timing::of(&times_s)), is_replayed)
    }

    fn share(&self, times_s: &[f64]) -> f64 {
        let all_s: f64 = self.observed_s(&|_| true).iter().sum();
        if all_s > 0.0 { times_s.iter().sum::<f64>() / all_s } else { 0.0 }
    }

    /// Sums over the parts of the same name, in the order of the names' first appearance.
    fn groups(&self, modules: &[ModuleRow], names: Vec<String>, classes: &Classes<'_>) -> Vec<GroupRow> {
        let mut members: Vec<(&String, Vec<usize>)> = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match members.iter_mut().find(|(other, _)| *other == name) {
                Some((_, indices)) => indices.push(index),
                None => members.push((name, vec![index])),
            }
        }
        members
            .into_iter()
            .map(|(name, indices)| {
                let belongs = |index: usize| indices.contains(&index);
                let times_s = self.observed_s(&belongs);
                let cost = self.cost(&belongs);
                let replays: Option<Vec<&Energy>> =
                    indices.iter().map(|&index| modules[index].replay.as_ref()).collect();
                let rotations: Option<Vec<&Energy>> =
                    indices.iter().map(|&index| modules[index].rotation.as_ref()).collect();
                let ids: Vec<ModuleId> = indices.iter().map(|&index| self.parts[index].module).collect();
                GroupRow {
                    name: name.clone(),
                    n_modules: indices.len(),
                    weight_bytes: indices.iter().map(|&index| self.parts[index].weight_bytes).sum(),
                    flops: cost.flops,
                    bytes: cost.bytes_read + cost.bytes_written,
                    time: Timing::of(&times_s),
                    time_share: self.share(&times_s),
                    first_order: self.first_order(&belongs),
                    replay: replays.map(Energy::sum),
                    rotation: rotations.map(Energy::sum),
                    regression: classes.energy(&ids),
                }
            })
            .collect()
    }

    fn closure(&self, whole: &Whole, modules: &[ModuleRow], classes: &Classes<'_>) -> Closure {
        let energy_closure = |sum: Energy| {
            let ratio = sum.energy_j.zip(whole.energy.energy_j).map(|(sum_j, whole_j)| sum_j / whole_j);
            let relative = |energy: &Energy| Some(energy.ci95_j? / energy.energy_j?);
            EnergyClosure {
                unattributed: whole.energy.minus(&sum),
                ratio_ci95: ratio
                    .zip(relative(&sum).zip(relative(&whole.energy)))
                    .map(|(ratio, (sum, whole))| ratio * sum.hypot(whole)),
                ratio,
                sum,
            }
        };
        let sum_s = Timing::of(&self.observed_s(&|_| true)).duration_s;
        let all = |of: fn(&ModuleRow) -> Option<&Energy>| -> Option<Vec<&Energy>> {
            modules.iter().map(of).collect()
        };
        Closure {
            time: TimeClosure {
                sum_s,
                whole_s: whole.time.duration_s,
                ratio: if whole.time.duration_s > 0.0 { sum_s / whole.time.duration_s } else { 0.0 },
            },
            first_order: energy_closure(self.first_order(&|_| true)),
            replay: all(|row| row.replay.as_ref()).map(|replays| energy_closure(Energy::sum(replays))),
            rotation: all(|row| row.rotation.as_ref()).map(|rows| energy_closure(Energy::sum(rows))),
            regression: classes.closure(whole),
        }
    }
}

/// The attribution that reports draw: regression where there is one; else replay where it is resolved and adds up to
/// the whole; else first-order.
fn attribution(closure: &Closure) -> Attribution {
    let ratio = |closure: &Option<EnergyClosure>| closure.as_ref().and_then(|closure| closure.ratio);
    match (ratio(&closure.regression), ratio(&closure.replay)) {
        (Some(_), _) => Attribution::Regression,
        (None, Some(ratio)) if (ratio - 1.0).abs() <= REPLAY_CLOSES_WITHIN => Attribution::Replay,
        _ => Attribution::FirstOrder,
    }
}

/// A figure that was computed from a measurement of something larger is derived at best.
fn attributed(energy: Energy) -> Energy {
    Energy { provenance: energy.provenance.max(Provenance::Derived), ..energy }
}

fn layer_names(parts: &[Part]) -> Vec<String> {
    let first = parts.iter().position(|part| part.block.is_some()).unwrap_or(parts.len());
    let name = |(index, part): (usize, &Part)| match part.block {
        Some(block) => format!("layer {block}"),
        None if index < first => "before the layers".to_owned(),
        None => "behind the layers".to_owned(),
    };
    parts.iter().enumerate().map(name).collect()
}

fn kind_names(parts: &[Part]) -> Vec<String> {
    parts.iter().map(|part| part.kind.name().to_owned()).collect()
}

fn metrics(shape: WorkloadShape, whole: &Whole) -> Vec<Metric> {
    let tokens = (shape.batch * shape.tokens) as f64;
    let duration = Value { value: whole.time.duration_s, ci95: whole.time.ci95_s };
    let n = whole.time.n;
    let mut metrics = vec![
        Metric::energy_per("energy_per_token_j", "J/token", &whole.energy, tokens),
        Metric::count_per_joule("tokens_per_joule", "tokens/J", tokens, &whole.energy),
        Metric::rate("tokens_per_s", "tokens/s", tokens, duration, n),
    ];
    if shape.phase != Phase::Decode {
        let samples = shape.batch as f64;
        metrics.push(Metric::energy_per("energy_per_sample_j", "J/sample", &whole.energy, samples));
        metrics.push(Metric::rate("samples_per_s", "samples/s", samples, duration, n));
    }
    metrics
}

fn timeline(record: &Record) -> Vec<TimelineSpan> {
    let spans = record.timeline.iter();
    spans
        .map(|span| TimelineSpan {
            module: span.module.0,
            start_s: span.start_s,
            duration_s: span.duration_s,
        })
        .collect()
}

fn windows(resolved: &[Resolved<'_>]) -> Vec<WindowRow> {
    let begin_s = resolved.first().map_or(0.0, |resolved| resolved.trial.start_s);
    let row = |Resolved { trial, seen, .. }: &Resolved<'_>| {
        let (target, module) = match trial.target {
            Target::Idle => ("idle", None),
            Target::Whole => ("whole", None),
            Target::Observed => ("observed", None),
            Target::Replay(module) => ("replay", Some(module.0)),
            Target::Rotation(_) => ("rotation", None),
            Target::Repeated => ("repeated", None),
            Target::Mixture => ("mixture", None),
            Target::Marker => ("marker", None),
        };
        WindowRow {
            target: target.to_owned(),
            module,
            round: trial.round,
            start_unix_s: clock::to_unix_s(trial.start_s),
            start_s: trial.start_s - begin_s,
            duration_s: trial.duration_s,
            iterations: trial.iterations,
            run_s: trial.run_s,
            cpu_time_s: trial.cpu_time_s,
            module_times_s: trial.part_s.clone(),
            extra: trial.extra.clone(),
            energy_j: seen.energy.energy_j,
            sampling_j: seen.energy.ci95_j,
            provenance: seen.energy.provenance,
            reason: seen.reason.clone(),
            is_lost: seen.is_lost,
            by_sensor_j: seen.by_sensor.iter().map(|energy| energy.energy_j).collect(),
            flags: trial.flags.clone(),
            temperature_c: trial.temperature_c,
            clock_hz: trial.clock_hz,
        }
    };
    resolved.iter().map(row).collect()
}
