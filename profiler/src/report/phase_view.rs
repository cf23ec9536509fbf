//! A phase as the page shows it: strings, percentages and the numbers that tables are sorted by.

use serde::Serialize;

use crate::energy::{Energy, Provenance};
use crate::report::chart::{self, PowerChart, Roofline, Tick};
use crate::report::json::{Attribution, GroupRow, ModuleRow, PhaseProfile};
use crate::report::parts_view::{ClassesView, HeatMap, Waterfall};
use crate::report::quantity;
use crate::report::table::{self, energy_closure};

#[derive(Serialize)]
pub(crate) struct PhaseView {
    name: String,
    shape: String,
    attribution: &'static str,
    is_estimated: bool,
    figures: Vec<Figure>,
    legend: Vec<String>,
    layers: Vec<Bar>,
    axis: Vec<Tick>,
    /// The systematic term that all rows share.
    systematic: String,
    kinds: Vec<KindView>,
    closure: Vec<ClosureView>,
    modules: Vec<ModuleView>,
    by_sensor: Vec<SensorEnergyView>,
    classes: Option<ClassesView>,
    waterfall: Option<Waterfall>,
    heat: Option<HeatMap>,
    power: Option<PowerChart>,
    speed: Option<Roofline>,
    cost: Option<Roofline>,
    notes: Vec<String>,
}

/// A large number on a card.
#[derive(Serialize)]
struct Figure {
    label: &'static str,
    value: String,
    unit: String,
    detail: String,
    provenance: Option<Provenance>,
}

impl Figure {
    /// A figure from its text, whose last word is the unit when it begins with a number.
    fn new(label: &'static str, text: &str, detail: String, provenance: Option<Provenance>) -> Self {
        let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let (value, unit) = text.rsplit_once(' ').filter(|_| is_number).unwrap_or((text, ""));
        Figure { label, value: value.to_owned(), unit: unit.to_owned(), detail, provenance }
    }
}

/// A stacked bar: one layer, or one phase.
#[derive(Serialize)]
pub(crate) struct Bar {
    name: String,
    total: String,
    is_estimated: bool,
    /// Of the longest bar, whisker included.
    width: f64,
    /// Begin and length of the confidence interval, in the same measure.
    whisker: Option<(f64, f64)>,
    provenance: Provenance,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    kind: String,
    /// Of the bar.
    share: f64,
    title: String,
}

#[derive(Serialize)]
struct KindView {
    kind: String,
    n_modules: usize,
    width: f64,
    energy_share: String,
    energy: String,
    provenance: Provenance,
    time: String,
    time_share: String,
    weights: String,
    compute: String,
    traffic: String,
}

#[derive(Serialize)]
struct ClosureView {
    name: String,
    detail: &'static str,
    value: String,
    ratio: String,
    width: f64,
    is_reference: bool,
    provenance: Option<Provenance>,
}

#[derive(Serialize)]
struct ModuleView {
    path: String,
    kind: String,
    format: String,
    weights: String,
    weight_bytes: u64,
    time: String,
    time_s: f64,
    time_share: String,
    energy: String,
    energy_j: f64,
    width: f64,
    whisker: Option<(f64, f64)>,
    provenance: Provenance,
    first_order: String,
    first_order_j: f64,
    replay: String,
    replay_j: f64,
    compute: String,
    flops_per_s: f64,
    traffic: String,
    bytes_per_s: f64,
}

#[derive(Serialize)]
struct SensorEnergyView {
    sensor: String,
    scope: String,
    energy: String,
    provenance: Provenance,
    systematic: String,
}

impl PhaseView {
    pub(crate) fn of(phase: &PhaseProfile) -> Self {
        let attribution = phase.attribution;
        let longest_j = longest(phase.layers.iter().map(|row| row.energy(attribution)));
        let longest_module_j = longest(phase.modules.iter().map(|row| row.energy(attribution)));
        let sum_j = energy_closure(phase).sum.energy_j.unwrap_or(0.0);
        let kinds_j = longest(phase.kinds.iter().map(|row| row.energy(attribution)));
        let tokens = if phase.name == "decode" {
            "one new token".to_owned()
        } else {
            format!("{} tokens", phase.tokens)
        };
        let cache = if phase.kv_length > 0 {
            format!(", {} tokens in the cache", phase.kv_length)
        } else {
            String::new()
        };
        PhaseView {
            name: phase.name.clone(),
            shape: format!("batch {} × {tokens}{cache}", phase.batch),
            attribution: attribution.name(),
            is_estimated: phase.whole.energy.provenance == Provenance::Estimated,
            figures: figures(phase),
            legend: phase.kinds.iter().map(|row| row.name.clone()).collect(),
            layers: phase.layers.iter().map(|row| bar(phase, row, longest_j)).collect(),
            axis: chart::energy_axis(longest_j),
            systematic: quantity::systematic(&phase.whole.energy),
            kinds: phase.kinds.iter().map(|row| KindView::of(row, attribution, kinds_j, sum_j)).collect(),
            closure: closure(phase),
            modules: phase
                .modules
                .iter()
                .map(|row| ModuleView::of(row, attribution, longest_module_j))
                .collect(),
            by_sensor: phase
                .whole
                .by_sensor
                .iter()
                .map(|energy| SensorEnergyView {
                    sensor: energy.sensor.clone(),
                    scope: energy.scope.clone(),
                    energy: quantity::energy(energy),
                    provenance: energy.provenance,
                    systematic: quantity::systematic(energy),
                })
                .collect(),
            classes: ClassesView::of(phase),
            waterfall: Waterfall::of(phase),
            heat: HeatMap::of(phase),
            power: PowerChart::of(phase),
            speed: Roofline::of_speed(phase),
            cost: Roofline::of_energy(phase),
            notes: phase.notes.clone(),
        }
    }
}

fn figures(phase: &PhaseProfile) -> Vec<Figure> {
    let whole = &phase.whole;
    let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let energy = |label, energy: &Energy| {
        let detail = format!("systematic {}, {}", quantity::systematic(energy), plural(energy.n, "trial"));
        Figure::new(label, &quantity::energy(energy), detail, Some(energy.provenance))
    };
    let mut figures = vec![energy("energy per iteration", &whole.energy)];
    for metric in &phase.metrics {
        let (label, detail) = match metric.name.as_str() {
            "energy_per_token_j" => ("energy per token", plural(phase.batch * phase.tokens, "token")),
            "energy_per_sample_j" => ("energy per sample", plural(phase.batch, "sample")),
            "tokens_per_s" => ("tokens per second", String::new()),
            "tokens_per_joule" => ("tokens per joule", String::new()),
            _ => continue,
        };
        figures.push(Figure::new(label, &quantity::metric(metric), detail, metric.provenance));
    }
    let detail = format!("{} × {}", plural(whole.time.n, "trial"), plural(whole.iterations, "iteration"));
    figures.push(Figure::new("time per iteration", &quantity::timing(&whole.time), detail, None));
    if let Some(power_w) = whole.power_w {
        let idle = whole.idle_power_w.map(|idle_w| {
            let each: Vec<String> = whole.idle_powers_w.iter().map(|w| quantity::si(*w, "W")).collect();
            match each.len() {
                0 | 1 => format!("idle {}", quantity::si(idle_w, "W")),
                _ => format!("idle, model loaded: {}", each.join(", ")),
            }
        });
        let provenance = Some(whole.energy.provenance);
        figures.push(Figure::new(
            "mean power",
            &quantity::si(power_w, "W"),
            idle.unwrap_or_default(),
            provenance,
        ));
    }
    figures.push(energy("energy above idle", &whole.dynamic_energy));
    figures
}

/// The end of the longest bar with its whisker, in joules.
fn longest<'a>(energies: impl Iterator<Item = &'a Energy>) -> f64 {
    energies.map(|energy| energy.energy_j.unwrap_or(0.0) + energy.ci95_j.unwrap_or(0.0)).fold(0.0, f64::max)
}

fn of(value: f64, whole: f64) -> f64 {
    if whole > 0.0 { (100.0 * value / whole).clamp(0.0, 100.0) } else { 0.0 }
}

/// Begin and length of an interval around an energy, of the longest bar.
fn whisker(energy: &Energy, longest_j: f64) -> Option<(f64, f64)> {
    let (energy_j, ci95_j) = energy.energy_j.zip(energy.ci95_j)?;
    let low = of(energy_j - ci95_j, longest_j);
    Some((low, of(energy_j + ci95_j, longest_j) - low))
}

fn bar(phase: &PhaseProfile, row: &GroupRow, longest_j: f64) -> Bar {
    let energy = row.energy(phase.attribution);
    let modules: Vec<&ModuleRow> =
        phase.modules.iter().filter(|module| layer_name(phase, module) == row.name).collect();
    let total_j: f64 = modules
        .iter()
        .filter_map(|module| module.energy(phase.attribution).energy_j)
        .filter(|j| *j > 0.0)
        .sum();
    let segments = phase.kinds.iter().filter_map(|kind| {
        let of_kind: Vec<&&ModuleRow> = modules.iter().filter(|module| module.kind == kind.name).collect();
        let energies = of_kind.iter().map(|module| module.energy(phase.attribution));
        let sum = Energy::sum(energies);
        let share = of(sum.energy_j?, total_j);
        let paths: Vec<&str> = of_kind.iter().map(|module| module.path.as_str()).collect();
        let title = format!(
            "{} · {} ({:.1} % of the layer, {})\n{}",
            kind.name,
            quantity::energy(&sum),
            share,
            sum.provenance,
            paths.join("\n")
        );
        (share > 0.0).then_some(Segment { kind: kind.name.clone(), share, title })
    });
    Bar {
        name: row.name.clone(),
        total: quantity::energy(energy),
        is_estimated: energy.provenance == Provenance::Estimated,
        width: of(energy.energy_j.unwrap_or(0.0), longest_j),
        whisker: whisker(energy, longest_j),
        provenance: energy.provenance,
        segments: segments.collect(),
    }
}

impl Bar {
    /// A phase by kinds, in shares of its modules; its total is what a token costs.
    pub(crate) fn of_kinds(phase: &PhaseProfile) -> Self {
        let energies: Vec<_> = phase.kinds.iter().map(|row| (row, row.energy(phase.attribution))).collect();
        let positive_j = |energy: &Energy| energy.energy_j.unwrap_or(0.0).max(0.0);
        let all_j: f64 = energies.iter().map(|(_, energy)| positive_j(energy)).sum();
        let segment = |(row, energy): &(&GroupRow, &Energy)| {
            let share = of(positive_j(energy), all_j);
            let title = format!("{} · {} ({share:.1} %)", row.name, quantity::energy(energy));
            (share > 0.0).then(|| Segment { kind: row.name.clone(), share, title })
        };
        let per_token = phase.metrics.iter().find(|metric| metric.name == "energy_per_token_j");
        Bar {
            name: phase.name.clone(),
            total: per_token.map_or_else(|| quantity::energy(&phase.whole.energy), quantity::metric),
            is_estimated: phase.whole.energy.provenance == Provenance::Estimated,
            width: 100.0,
            whisker: None,
            provenance: phase.whole.energy.provenance,
            segments: energies.iter().filter_map(segment).collect(),
        }
    }
}

/// The row of the layers that a module belongs to.
fn layer_name(phase: &PhaseProfile, module: &ModuleRow) -> String {
    match module.block {
        Some(block) => format!("layer {block}"),
        None => {
            let first = phase.modules.iter().find(|other| other.block.is_some());
            let is_before = first.is_none_or(|first| module.id < first.id);
            if is_before { "before the layers" } else { "behind the layers" }.to_owned()
        }
    }
}

impl KindView {
    fn of(row: &GroupRow, attribution: Attribution, longest_j: f64, sum_j: f64) -> Self {
        let energy = row.energy(attribution);
        KindView {
            kind: row.name.clone(),
            n_modules: row.n_modules,
            width: of(energy.energy_j.unwrap_or(0.0), longest_j),
            energy_share: energy
                .energy_j
                .filter(|_| sum_j > 0.0)
                .map_or("–".to_owned(), |energy_j| quantity::percent(energy_j / sum_j)),
            energy: quantity::energy(energy),
            provenance: energy.provenance,
            time: quantity::timing(&row.time),
            time_share: quantity::percent(row.time_share),
            weights: quantity::bytes(row.weight_bytes as f64),
            compute: per_second(row.flops, row.time.duration_s, "FLOP/s"),
            traffic: per_second(row.bytes, row.time.duration_s, "B/s"),
        }
    }
}

impl ModuleView {
    fn of(row: &ModuleRow, attribution: Attribution, longest_j: f64) -> Self {
        let (energy, timing) = (row.energy(attribution), row.timing(attribution));
        let bytes = row.bytes_read + row.bytes_written;
        let per_s = |count: f64| if timing.duration_s > 0.0 { count / timing.duration_s } else { 0.0 };
        ModuleView {
            path: row.path.clone(),
            kind: row.kind.clone(),
            format: row.format.clone().unwrap_or_default(),
            weights: quantity::bytes(row.weight_bytes as f64),
            weight_bytes: row.weight_bytes,
            time: quantity::timing(&row.time),
            time_s: row.time.duration_s,
            time_share: quantity::percent(row.time_share),
            energy: quantity::energy(energy),
            energy_j: energy.energy_j.unwrap_or(-1.0),
            width: of(energy.energy_j.unwrap_or(0.0), longest_j),
            whisker: whisker(energy, longest_j),
            provenance: energy.provenance,
            first_order: quantity::energy(&row.first_order),
            first_order_j: row.first_order.energy_j.unwrap_or(-1.0),
            replay: row.replay.as_ref().map_or("–".to_owned(), quantity::energy),
            replay_j: row.replay.as_ref().and_then(|replay| replay.energy_j).unwrap_or(-1.0),
            compute: per_second(row.flops, timing.duration_s, "FLOP/s"),
            flops_per_s: per_s(row.flops),
            traffic: per_second(bytes, timing.duration_s, "B/s"),
            bytes_per_s: per_s(bytes),
        }
    }
}

fn closure(phase: &PhaseProfile) -> Vec<ClosureView> {
    let whole = &phase.whole.energy;
    let whole_j = whole.energy_j.unwrap_or(0.0);
    let present = || {
        table::closures(phase).map(|(name, closure)| {
            let detail = match name {
                "regression" => "what the whole costs more when a class runs extra times within it",
                "rotation" => "each class by itself, going round its layers",
                "replay" => "each module by itself, over and over",
                _ => "time share × mean power of the cut program",
            };
            (format!("modules, {name}"), detail, closure)
        })
    };
    let longest_j = present().filter_map(|(.., closure)| closure.sum.energy_j).fold(whole_j, f64::max);
    let mut rows = vec![ClosureView {
        name: "whole program".to_owned(),
        detail: "one piece, in windows of its own",
        value: quantity::energy(whole),
        ratio: quantity::percent(1.0),
        width: of(whole_j, longest_j),
        is_reference: true,
        provenance: Some(whole.provenance),
    }];
    rows.extend(present().map(|(name, detail, closure)| ClosureView {
        name,
        detail,
        value: quantity::energy(&closure.sum),
        ratio: quantity::ratio(closure),
        width: of(closure.sum.energy_j.unwrap_or(0.0), longest_j),
        is_reference: false,
        provenance: Some(closure.sum.provenance),
    }));
    let chosen = energy_closure(phase);
    rows.push(ClosureView {
        name: format!("unattributed ({})", phase.attribution.name()),
        detail: "whole less modules; nothing is rescaled",
        value: quantity::energy(&chosen.unattributed),
        ratio: chosen.ratio.map_or("unresolved".to_owned(), |ratio| quantity::percent(1.0 - ratio)),
        width: of(chosen.unattributed.energy_j.map_or(0.0, f64::abs), longest_j),
        is_reference: false,
        provenance: Some(chosen.unattributed.provenance),
    });
    let time = &phase.closure.time;
    rows.push(ClosureView {
        name: "time of the modules".to_owned(),
        detail: "cut program over the program in one piece",
        value: format!("{} of {}", quantity::si(time.sum_s, "s"), quantity::si(time.whole_s, "s")),
        ratio: quantity::percent(time.ratio),
        width: of(time.sum_s, time.sum_s.max(time.whole_s)),
        is_reference: false,
        provenance: None,
    });
    rows
}

fn per_second(count: f64, duration_s: f64, unit: &str) -> String {
    if count > 0.0 && duration_s > 0.0 { quantity::si(count / duration_s, unit) } else { "–".to_owned() }
}
