//! Tables for people: rows of text, printed by whoever has a terminal, or as Markdown.

use crate::energy::Energy;
use crate::report::json::{Attribution, EnergyClosure, GroupRow, PhaseProfile};
use crate::report::quantity;

/// A header and rows of as many cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Table { header: header.iter().map(|name| (*name).to_owned()).collect(), rows }
    }

    /// The table in Markdown, to be pasted.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", escaped.join(" | "))
        };
        let rule = vec!["---".to_owned(); self.header.len()];
        [line(&self.header), line(&rule)].into_iter().chain(self.rows.iter().map(|row| line(row))).collect()
    }
}

/// The figures of a phase as a whole.
pub fn summary(phase: &PhaseProfile) -> Table {
    let whole = &phase.whole;
    let mut rows = vec![
        vec!["time per iteration".to_owned(), quantity::timing(&whole.time)],
        vec![
            "energy per iteration".to_owned(),
            format!("{}, systematic {}", labelled(&whole.energy), quantity::systematic(&whole.energy)),
        ],
        vec!["above idle".to_owned(), labelled(&whole.dynamic_energy)],
    ];
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![name.to_owned(), value]));
    };
    row("mean power", whole.power_w.map(|power_w| quantity::si(power_w, "W")));
    row("idle power", whole.idle_power_w.map(|power_w| quantity::si(power_w, "W")));
    row("processor time", whole.cpu_time_s.map(|cpu_time_s| quantity::si(cpu_time_s, "s")));
    let counted =
        [("compute", whole.flops, "FLOP/s"), ("traffic", whole.bytes_read + whole.bytes_written, "B/s")];
    if whole.time.duration_s > 0.0 {
        for (name, count, unit) in counted {
            row(name, Some(quantity::si(count / whole.time.duration_s, unit)));
        }
    }
    for metric in &phase.metrics {
        let label = metric.provenance.map_or(String::new(), |provenance| format!(" [{provenance}]"));
        row(&metric.name, Some(format!("{}{label}", quantity::metric(metric))));
    }
    Table::new(&["figure", "value"], rows)
}

/// One row per module in program order, and the closure.
pub fn modules(phase: &PhaseProfile) -> Table {
    let header =
        ["module", "kind", "format", "weights", "time", "share", "energy", "provenance", "FLOP/s", "B/s"];
    let mut rows: Vec<Vec<String>> = phase
        .modules
        .iter()
        .map(|row| {
            let (energy, timing) = (row.energy(phase.attribution), row.timing(phase.attribution));
            vec![
                row.path.clone(),
                row.kind.clone(),
                row.format.clone().unwrap_or_default(),
                quantity::bytes(row.weight_bytes as f64),
                quantity::timing(&row.time),
                quantity::percent(row.time_share),
                quantity::energy(energy),
                energy.provenance.name().to_owned(),
                per_second(row.flops, timing.duration_s, "FLOP/s"),
                per_second(row.bytes_read + row.bytes_written, timing.duration_s, "B/s"),
            ]
        })
        .collect();
    rows.extend(closure_rows(phase, header.len(), 4, 6));
    Table::new(&header, rows)
}

/// One row per layer, with what stands before and behind them, and the closure.
pub fn layers(phase: &PhaseProfile) -> Table {
    groups(phase, "layer", &phase.layers)
}

/// One row per kind of module, and the closure.
pub fn kinds(phase: &PhaseProfile) -> Table {
    groups(phase, "kind", &phase.kinds)
}

fn groups(phase: &PhaseProfile, name: &str, groups: &[GroupRow]) -> Table {
    let header = [name, "modules", "weights", "time", "share", "energy", "provenance", "FLOP/s", "B/s"];
    let mut rows: Vec<Vec<String>> = groups
        .iter()
        .map(|row| {
            let energy = row.energy(phase.attribution);
            vec![
                row.name.clone(),
                row.n_modules.to_string(),
                quantity::bytes(row.weight_bytes as f64),
                quantity::timing(&row.time),
                quantity::percent(row.time_share),
                quantity::energy(energy),
                energy.provenance.name().to_owned(),
                per_second(row.flops, row.time.duration_s, "FLOP/s"),
                per_second(row.bytes, row.time.duration_s, "B/s"),
            ]
        })
        .collect();
    rows.extend(closure_rows(phase, header.len(), 3, 5));
    Table::new(&header, rows)
}

/// The three rows that hold the sum against the whole.
fn closure_rows(phase: &PhaseProfile, width: usize, time_at: usize, energy_at: usize) -> Vec<Vec<String>> {
    let time = &phase.closure.time;
    let closure = energy_closure(phase);
    let row = |name: &str, time_s: f64, energy: &Energy| {
        let mut cells = vec![String::new(); width];
        cells[0] = name.to_owned();
        cells[time_at] = quantity::si(time_s, "s");
        cells[energy_at] = quantity::energy(energy);
        cells[energy_at + 1] = energy.provenance.name().to_owned();
        cells
    };
    vec![
        row("sum of the rows", time.sum_s, &closure.sum),
        row("unattributed", time.whole_s - time.sum_s, &closure.unattributed),
        row("whole, measured apart", time.whole_s, &phase.whole.energy),
    ]
}

/// The closure of the attribution that the rows show.
pub fn energy_closure(phase: &PhaseProfile) -> &EnergyClosure {
    match (phase.attribution, &phase.closure.replay) {
        (Attribution::Replay, Some(replay)) => replay,
        _ => &phase.closure.first_order,
    }
}

/// The closures in one line: what the sums are of the whole.
pub fn closure(phase: &PhaseProfile) -> String {
    let ratio = |closure: &EnergyClosure| closure.ratio.map_or("unresolved".to_owned(), quantity::percent);
    let closure = &phase.closure;
    let replay = closure.replay.as_ref().map(|closure| format!(", energy by replay {}", ratio(closure)));
    format!(
        "sum of the modules over the whole: time {}, energy first-order {}{}",
        quantity::percent(closure.time.ratio),
        ratio(&closure.first_order),
        replay.unwrap_or_default()
    )
}

fn labelled(energy: &Energy) -> String {
    match energy.energy_j {
        Some(_) => format!("{} [{}]", quantity::energy(energy), energy.provenance),
        None => quantity::energy(energy),
    }
}

fn per_second(count: f64, duration_s: f64, unit: &str) -> String {
    if count > 0.0 && duration_s > 0.0 { quantity::si(count / duration_s, unit) } else { String::new() }
}
