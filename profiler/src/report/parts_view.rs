//! What the page shows of the parts of a phase: classes, the waterfall from parts to whole, and a map of layers by kind.

use serde::Serialize;

use crate::energy::Energy;
use crate::report::chart::{self, Tick};
use crate::report::json::PhaseProfile;
use crate::report::quantity;
use crate::report::table::{self, energy_closure};

/// A table as the page shows it.
#[derive(Serialize)]
pub(crate) struct ClassesView {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    summary: String,
}

impl ClassesView {
    pub(crate) fn of(phase: &PhaseProfile) -> Option<Self> {
        let summary = table::regression(phase)?;
        let table = table::classes(phase);
        Some(ClassesView { header: table.header, rows: table.rows, summary })
    }
}

/// Kinds of modules one behind the other, then what none accounts for, up to the whole.
#[derive(Serialize)]
pub(crate) struct Waterfall {
    steps: Vec<Step>,
    axis: Vec<Tick>,
}

/// A step of the waterfall: from where the steps before it end to where it ends.
#[derive(Serialize)]
struct Step {
    name: String,
    /// Colour: a kind of module, or nothing.
    kind: String,
    left: f64,
    width: f64,
    /// Begin and length of the interval around its end.
    whisker: Option<(f64, f64)>,
    value: String,
    share: String,
    is_total: bool,
}

impl Waterfall {
    /// `None` where the whole is unresolved.
    pub(crate) fn of(phase: &PhaseProfile) -> Option<Self> {
        let whole_j = phase.whole.energy.energy_j?;
        let kinds = phase.kinds.iter().map(|row| (row.name.as_str(), row.energy(phase.attribution)));
        let rest = ("unattributed", &energy_closure(phase).unattributed);
        // Name, energy, where it begins and where it ends.
        let mut falls = Vec::new();
        let mut at_j = 0.0;
        for (name, energy) in kinds.chain([rest]) {
            let Some(energy_j) = energy.energy_j else { continue };
            falls.push((name, energy, at_j, at_j + energy_j));
            at_j += energy_j;
        }
        falls.push(("whole, measured", &phase.whole.energy, 0.0, whole_j));
        let ci95_j = |energy: &Energy| energy.ci95_j.unwrap_or(0.0);
        let longest_j = falls
            .iter()
            .map(|(_, energy, from_j, to_j)| from_j.max(to_j + ci95_j(energy)))
            .fold(0.0, f64::max);
        let scale = 100.0 / longest_j.max(f64::MIN_POSITIVE);
        let last = falls.len() - 1;
        let step = |(index, (name, energy, from_j, to_j)): (usize, &(&str, &Energy, f64, f64))| {
            let low_j = (to_j - ci95_j(energy)).max(0.0);
            Step {
                name: (*name).to_owned(),
                kind: if index + 1 < last { (*name).to_owned() } else { String::new() },
                left: scale * from_j.min(*to_j).max(0.0),
                width: scale * (to_j - from_j).abs(),
                whisker: energy
                    .ci95_j
                    .map(|ci95_j| (scale * low_j, scale * (to_j + ci95_j - low_j).max(0.0))),
                value: quantity::energy(energy),
                share: quantity::percent((to_j - from_j) / whole_j),
                is_total: index == last,
            }
        };
        let steps = falls.iter().enumerate().map(step).collect();
        Some(Waterfall { steps, axis: chart::energy_axis(longest_j) })
    }
}

/// Joules of each kind in each layer.
#[derive(Serialize)]
pub(crate) struct HeatMap {
    columns: Vec<String>,
    rows: Vec<HeatRow>,
}

#[derive(Serialize)]
struct HeatRow {
    name: String,
    cells: Vec<HeatCell>,
}

#[derive(Serialize)]
struct HeatCell {
    /// Opacity, from 0 to 1; nothing where the layer has no such module.
    heat: Option<f64>,
    text: String,
    title: String,
}

impl HeatMap {
    /// `None` for a model of one layer, or without energies.
    pub(crate) fn of(phase: &PhaseProfile) -> Option<Self> {
        let in_layers = phase.modules.iter().filter(|row| row.block.is_some());
        let mut columns: Vec<String> = Vec::new();
        let mut blocks: Vec<u32> = Vec::new();
        for row in in_layers.clone() {
            if !columns.contains(&row.kind) {
                columns.push(row.kind.clone());
            }
            if let Some(block) = row.block.filter(|block| !blocks.contains(block)) {
                blocks.push(block);
            }
        }
        let cell_j = |block: u32, kind: &str| -> Option<f64> {
            let members: Vec<f64> = in_layers
                .clone()
                .filter(|row| row.block == Some(block) && row.kind == kind)
                .map(|row| row.energy(phase.attribution).energy_j)
                .collect::<Option<_>>()?;
            (!members.is_empty()).then(|| members.iter().sum())
        };
        let most_j = blocks
            .iter()
            .flat_map(|&block| columns.iter().filter_map(move |kind| cell_j(block, kind)))
            .fold(0.0, f64::max);
        if blocks.len() < 2 || most_j <= 0.0 {
            return None;
        }
        let row = |block: u32| HeatRow {
            name: format!("layer {block}"),
            cells: columns
                .iter()
                .map(|kind| {
                    let energy_j = cell_j(block, kind);
                    let text = energy_j.map_or(String::new(), |energy_j| quantity::si(energy_j, "J"));
                    HeatCell {
                        heat: energy_j.map(|energy_j| (energy_j / most_j).max(0.0)),
                        title: format!("layer {block}, {kind}: {text}"),
                        text,
                    }
                })
                .collect(),
        };
        Some(HeatMap { rows: blocks.into_iter().map(row).collect(), columns })
    }
}
