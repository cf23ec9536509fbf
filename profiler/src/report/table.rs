//! Tables for people: rows of text, printed by whoever has a terminal, or as Markdown.

use crate::attribution::conditions;
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
    let idle_powers: Vec<String> = whole.idle_powers_w.iter().map(|w| quantity::si(*w, "W")).collect();
    row("before, between, after", (idle_powers.len() > 1).then(|| idle_powers.join(", ")));
    for (name, value) in conditions::of_whole(phase) {
        row(name, Some(value));
    }
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
    let closure = &phase.closure;
    match phase.attribution {
        Attribution::FirstOrder => None,
        Attribution::Replay => closure.replay.as_ref(),
        Attribution::Regression => closure.regression.as_ref(),
    }
    .unwrap_or(&closure.first_order)
}

/// The closures in one line: what the sums are of the whole.
pub fn closure(phase: &PhaseProfile) -> String {
    let closure = &phase.closure;
    let mut line =
        format!("sum of the modules over the whole: time {}", quantity::percent(closure.time.ratio));
    for (name, closure) in closures(phase) {
        line += &format!(", energy by {name} {}", quantity::ratio(closure));
    }
    line
}

/// Every closure in energy that a phase has, the primary one first.
pub fn closures(phase: &PhaseProfile) -> impl Iterator<Item = (&'static str, &EnergyClosure)> {
    let closure = &phase.closure;
    let all = [
        ("regression", closure.regression.as_ref()),
        ("rotation", closure.rotation.as_ref()),
        ("replay", closure.replay.as_ref()),
        ("first-order", Some(&closure.first_order)),
    ];
    all.into_iter().filter_map(|(name, closure)| Some((name, closure?)))
}

/// One row per class of modules, by regression; costs are those of one run of one module, or of neighbours that are done
/// at once.
pub fn classes(phase: &PhaseProfile) -> Table {
    let misfit = |misfit_j: Option<f64>| {
        let misfit_j = misfit_j.filter(|misfit_j| *misfit_j > 0.0);
        misfit_j.map_or(String::new(), |misfit_j| format!("± {}", quantity::si(misfit_j, "J")))
    };
    let header = [
        "class",
        "times",
        "extra",
        "share",
        "energy each",
        "misfit",
        "above idle",
        "time each",
        "power",
        "rotation",
    ];
    let rows = phase.classes.iter().map(|row| {
        let energy = |energy: &Option<Energy>| energy.as_ref().map_or(String::new(), quantity::energy);
        vec![
            row.name.clone(),
            (row.modules.len() / row.unit.max(1)).to_string(),
            row.sweeps.to_string(),
            row.share.map_or(String::new(), quantity::percent),
            energy(&row.energy),
            misfit(row.misfit_j),
            energy(&row.dynamic_energy),
            row.time.as_ref().map_or(String::new(), quantity::timing),
            row.power_w.map_or(String::new(), |power_w| quantity::si(power_w, "W")),
            row.rotation_ratio.map_or(String::new(), quantity::percent),
        ]
    });
    Table::new(&header, rows.collect())
}

/// The misfit of classes below this share of the whole is not worth a word,
const NOTABLE_SHARE: f64 = 0.02;
/// nor is one below this, relative to the class.
const NOTABLE_MISFIT: f64 = 0.01;

/// How the regression went, in one line.
pub fn regression(phase: &PhaseProfile) -> Option<String> {
    let regression = phase.regression.as_ref()?;
    let additivity = regression.additivity.map(|additivity| {
        format!(
            "; unseen mixtures are predicted {} off on average ({} of them)",
            quantity::percent(additivity.mean_absolute_error),
            additivity.n
        )
    });
    let effects = regression.effects.iter().map(|effect| {
        let ci95 = effect.relative_ci95.map(|ci95| format!(" ± {:.2}", 100.0 * ci95));
        format!("; {} costs {:+.2}{} %", effect.name, 100.0 * effect.relative, ci95.unwrap_or_default())
    });
    let notable = phase.classes.iter().filter(|row| row.share.is_some_and(|share| share >= NOTABLE_SHARE));
    let misfit =
        notable.filter_map(|row| Some(row.misfit_j? / row.energy.as_ref()?.energy_j?)).fold(0.0, f64::max);
    let misfit = (misfit >= NOTABLE_MISFIT).then(|| {
        let percent = 100.0 * misfit;
        format!("; behind other neighbours, a class may take up to {percent:.0} % more or less (misfit)")
    });
    let of_equals = regression.scatter_of_equals_relative;
    let of_equals = of_equals.map(|scatter| format!(" (of equal trials {:.2} %)", 100.0 * scatter));
    Some(format!(
        "regression over {} trials in {} rounds: condition number {:.1}, scatter of a trial {:.2} %{}, of a round {:.2} %, \
         beside the modules {}{}{}{}",
        regression.n_trials,
        regression.n_rounds,
        regression.condition_number,
        100.0 * regression.scatter_relative,
        of_equals.unwrap_or_default(),
        100.0 * regression.round_scatter_relative,
        quantity::energy(&regression.outside),
        effects.collect::<String>(),
        additivity.unwrap_or_default(),
        misfit.unwrap_or_default()
    ))
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
