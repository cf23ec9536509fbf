//! From trials to joules per module.
//!
//! Two ways stand side by side. **First-order**: a module's share of the time within the cut program, times the mean
//! power of that trial. It is always there and always sums to what the cut program used, so its sum checks only what
//! cutting itself cost; it is wrong where modules differ in power. **Replay**: each module by itself, over and over,
//! until the sensor resolves it. It measures each module's own power, with its weights as warm as caches make them.
//!
//! Both are held against the whole program in one piece, measured in windows of its own. What is left over is a row,
//! `unattributed`, and nothing is rescaled.

use std::collections::BTreeMap;

use joulewise_engine::{Cost, ModuleId, Phase};

use crate::clock;
use crate::energy::{Energy, EnergyReading, Provenance};
use crate::experiment::{Record, Target, Trial, are_equal};
use crate::metrics::{Metric, Value};
use crate::report::json::{
    Attribution, Closure, EnergyClosure, GroupRow, ModuleRow, PhaseProfile, TimeClosure, TimelineSpan,
    Timing, Whole, WindowRow,
};
use crate::workload::{Part, WorkloadShape};

/// How far the sum of replayed modules may lie from the whole for reports to show it.
const REPLAY_CLOSES_WITHIN: f64 = 0.10;

/// The energy between two moments, one reading per sensor.
pub type EnergyBetween<'a> = &'a dyn Fn(f64, f64) -> Vec<EnergyReading>;

/// A trial with its energy.
struct Resolved<'a> {
    trial: &'a Trial,
    /// By the primary sensors, of the whole window.
    energy: Energy,
    readings: Vec<EnergyReading>,
}

impl Resolved<'_> {
    fn per_iteration(&self) -> Energy {
        self.energy.scaled(1.0 / self.trial.iterations as f64)
    }
}

/// Turns the trials of a workload into a phase of a profile. `primary` are the indices of the sensors that count.
pub fn attribute(
    shape: WorkloadShape,
    parts: &[Part],
    record: &Record,
    energy_between: EnergyBetween<'_>,
    primary: &[usize],
) -> PhaseProfile {
    let resolved: Vec<Resolved<'_>> = record
        .trials
        .iter()
        .map(|trial| {
            let readings = energy_between(trial.start_s, trial.start_s + trial.duration_s);
            let chosen: Vec<&EnergyReading> = primary.iter().filter_map(|&i| readings.get(i)).collect();
            Resolved { trial, energy: Energy::of_window(&chosen), readings }
        })
        .collect();
    let trials = Trials { parts, resolved: &resolved };
    let modules: Vec<ModuleRow> = (0..parts.len()).map(|index| trials.module(index)).collect();
    let whole = trials.whole();
    let closure = trials.closure(&whole, &modules);
    let attribution = attribution(&closure);
    PhaseProfile {
        name: shape.phase.name().to_owned(),
        batch: shape.batch,
        tokens: shape.tokens,
        kv_length: shape.kv_length,
        is_complete: record.is_complete,
        warm_up_iterations: record.warm_up_iterations,
        metrics: metrics(shape, &whole),
        attribution,
        layers: trials.groups(&modules, layer_names(parts)),
        kinds: trials.groups(&modules, kind_names(parts)),
        timeline: timeline(record),
        power_samples: Vec::new(),
        windows: windows(&resolved),
        notes: [silences(&resolved, primary), notes(parts, record, &whole, &closure)].concat(),
        closure,
        whole,
        modules,
    }
}

/// The trials of one workload, by target.
struct Trials<'a> {
    parts: &'a [Part],
    resolved: &'a [Resolved<'a>],
}

impl Trials<'_> {
    fn of(&self, target: Target) -> impl Iterator<Item = &Resolved<'_>> {
        self.resolved.iter().filter(move |resolved| resolved.trial.target == target)
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
        let idle = self.of(Target::Idle).next();
        let idle_power = idle.map(|idle| idle.energy.scaled(1.0 / idle.trial.duration_s));
        let idle_energy = idle_power.as_ref().map(|power| power.scaled(mean_window_s.duration_s));
        let n_sensors = trials.first().map_or(0, |trial| trial.readings.len());
        let by_sensor = (0..n_sensors).map(|sensor| {
            let of_sensor: Vec<Energy> = trials
                .iter()
                .map(|t| Energy::of_window(&[&t.readings[sensor]]).scaled(1.0 / t.trial.iterations as f64))
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
            cpu_time_s: per_iteration(|trial| trial.cpu_time_s).map(|values| Timing::of(&values).duration_s),
            by_sensor: by_sensor.collect(),
            energy,
            flops: cost.flops,
            bytes_read: cost.bytes_read,
            bytes_written: cost.bytes_written,
        }
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
            .map(|(resolved, time_s)| resolved.energy.scaled(time_s / resolved.trial.duration_s))
            .collect();
        attributed(Energy::mean(&energies))
    }

    fn module(&self, index: usize) -> ModuleRow {
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
    fn groups(&self, modules: &[ModuleRow], names: Vec<String>) -> Vec<GroupRow> {
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
                }
            })
            .collect()
    }

    fn closure(&self, whole: &Whole, modules: &[ModuleRow]) -> Closure {
        let energy_closure = |sum: Energy| EnergyClosure {
            unattributed: whole.energy.minus(&sum),
            ratio: sum.energy_j.zip(whole.energy.energy_j).map(|(sum_j, whole_j)| sum_j / whole_j),
            sum,
        };
        let sum_s = Timing::of(&self.observed_s(&|_| true)).duration_s;
        let replays: Option<Vec<&Energy>> = modules.iter().map(|row| row.replay.as_ref()).collect();
        Closure {
            time: TimeClosure {
                sum_s,
                whole_s: whole.time.duration_s,
                ratio: if whole.time.duration_s > 0.0 { sum_s / whole.time.duration_s } else { 0.0 },
            },
            first_order: energy_closure(self.first_order(&|_| true)),
            replay: replays.map(|replays| energy_closure(Energy::sum(replays))),
        }
    }
}

/// The attribution that reports draw: replay where it is resolved and adds up to the whole, else first-order.
fn attribution(closure: &Closure) -> Attribution {
    let ratio = closure.replay.as_ref().and_then(|replay| replay.ratio);
    match ratio {
        Some(ratio) if (ratio - 1.0).abs() <= REPLAY_CLOSES_WITHIN => Attribution::Replay,
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
    let row = |resolved: &Resolved<'_>| {
        let trial = resolved.trial;
        let (target, module) = match trial.target {
            Target::Idle => ("idle", None),
            Target::Whole => ("whole", None),
            Target::Observed => ("observed", None),
            Target::Replay(module) => ("replay", Some(module.0)),
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
            energy_j: resolved.energy.energy_j,
        }
    };
    resolved.iter().map(row).collect()
}

/// What sensors said, or did not, of windows of the whole program that stayed unresolved.
fn silences(resolved: &[Resolved<'_>], primary: &[usize]) -> Vec<String> {
    let whole: Vec<_> = resolved.iter().filter(|resolved| resolved.trial.target == Target::Whole).collect();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for reading in whole.iter().flat_map(|r| primary.iter().filter_map(|&sensor| r.readings.get(sensor))) {
        if let Some(reason) = &reading.reason {
            *counts.entry((&reading.sensor, reason)).or_default() += 1;
        }
    }
    let note = |((sensor, reason), n): (&(&str, &str), &usize)| {
        format!("{sensor} did not resolve {n} of {} windows of the whole program: {reason}", whole.len())
    };
    counts.iter().map(note).collect()
}

fn notes(parts: &[Part], record: &Record, whole: &Whole, closure: &Closure) -> Vec<String> {
    let mut notes = Vec::new();
    if !record.replayed.is_empty() && record.replayed.len() < parts.len() {
        notes.push(format!(
            "{} of {} modules were replayed (first, middle and last of equal ones); they stand for the others",
            record.replayed.len(),
            parts.len()
        ));
    }
    let replay_ratio = closure.replay.as_ref().and_then(|replay| replay.ratio);
    if let (Some(ratio), Attribution::FirstOrder) = (replay_ratio, attribution(closure)) {
        notes.push(format!(
            "replayed by themselves, the modules account for {:.0} % of the whole (their weights stay in the caches, or \
             the machine was busy): the rows show first-order energies instead",
            100.0 * ratio
        ));
    }
    if whole.energy.provenance == Provenance::Estimated {
        notes.push("no sensor measures this device: every joule is an estimate".to_owned());
    }
    notes
}
