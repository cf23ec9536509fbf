//! What the page shows of the parts of a phase: classes, the waterfall from parts to whole, and a map of layers by kind.

use serde::Serialize;

use crate::energy::Provenance;
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

/// A step of the waterfall: from where the steps before it end to where it ends.
#[derive(Serialize)]
pub(crate) struct Step {
    name: String,
    /// Colour: a kind of module, or nothing.
    kind: String,
    left: f64,
    width: f64,
    value: String,
    share: String,
    is_total: bool,
    provenance: Provenance,
}

/// Kinds of modules one behind the other, then what none accounts for, up to the whole; empty where that is unresolved.
pub(crate) fn waterfall(phase: &PhaseProfile) -> Vec<Step> {
    let closure = energy_closure(phase);
    let Some(whole_j) = phase.whole.energy.energy_j else { return Vec::new() };
    let energies: Vec<_> = phase.kinds.iter().map(|row| (row, row.energy(phase.attribution))).collect();
    let sum_j: f64 = energies.iter().filter_map(|(_, energy)| energy.energy_j).sum();
    let scale = 100.0 / whole_j.max(sum_j).max(f64::MIN_POSITIVE);
    let mut at_j = 0.0;
    let mut steps = Vec::new();
    let mut step = |name: &str, kind: &str, energy: &crate::energy::Energy, is_total: bool| {
        let Some(energy_j) = energy.energy_j else { return };
        let (from_j, to_j) = if is_total { (0.0, energy_j) } else { (at_j, at_j + energy_j) };
        at_j = to_j;
        steps.push(Step {
            name: name.to_owned(),
            kind: kind.to_owned(),
            left: scale * from_j.min(to_j).max(0.0),
            width: scale * (to_j - from_j).abs(),
            value: quantity::energy(energy),
            share: quantity::percent(energy_j / whole_j),
            is_total,
            provenance: energy.provenance,
        });
    };
    for (row, energy) in &energies {
        step(&row.name, &row.name, energy, false);
    }
    step("unattributed", "", &closure.unattributed, false);
    step("whole, measured apart", "", &phase.whole.energy, true);
    steps
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
