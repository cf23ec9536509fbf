//! A comparison for people: a table, and a page without anything that has to be fetched.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::comparison::{ComparedRow, PhaseComparison, ProfileComparison};
use crate::error::{ProfilerError, Result};
use crate::report::quantity;
use crate::report::table::Table;

const TEMPLATE: &str = include_str!("../../templates/comparison.html");

/// The rows of a phase; those of single modules only when `with_modules`. What changed at equal conditions stands beside
/// them where that is known.
pub fn table(phase: &PhaseComparison, with_modules: bool) -> Table {
    let has_conditions = has_conditions(phase);
    let mut header =
        vec!["part", "quantity", "verdict", "first", "second", "change", "effect", "p corrected"];
    if has_conditions {
        header.extend(["at equal conditions", "p corrected"]);
    }
    let rows = phase.rows.iter().filter(|row| with_modules || row.level != "module").map(|row| {
        let view = RowView::of(row);
        let name = if row.level == "kind" { format!("kind {}", row.name) } else { row.name.clone() };
        let mut cells = vec![
            name,
            row.quantity.to_owned(),
            view.class.to_owned(),
            view.first,
            view.second,
            view.change,
            view.effect,
            view.p_corrected,
        ];
        if has_conditions {
            cells.extend([view.equal_change, view.equal_p_corrected]);
        }
        cells
    });
    Table { rows: rows.collect(), header: header.into_iter().map(str::to_owned).collect() }
}

/// Whether it is known what conditions make of a phase's joules.
fn has_conditions(phase: &PhaseComparison) -> bool {
    phase.rows.iter().any(|row| row.at_equal_conditions.is_some())
}

/// Renders a comparison as a page of its own.
///
/// # Errors
/// [`ProfilerError::Report`].
pub fn html(comparison: &ProfileComparison, first: &str, second: &str) -> Result<String> {
    let failed = |error: minijinja::Error| ProfilerError::Report(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("comparison.html", TEMPLATE).map_err(failed)?;
    let page = Page {
        first,
        second,
        notes: &comparison.notes,
        phases: comparison
            .phases
            .iter()
            .map(|phase| PhaseView {
                name: &phase.name,
                has_conditions: has_conditions(phase),
                rows: phase.rows.iter().map(RowView::of).collect(),
            })
            .collect(),
    };
    environment
        .get_template("comparison.html")
        .and_then(|template| template.render(Serde(page)))
        .map_err(failed)
}

#[derive(Serialize)]
struct Page<'a> {
    first: &'a str,
    second: &'a str,
    notes: &'a [String],
    phases: Vec<PhaseView<'a>>,
}

#[derive(Serialize)]
struct PhaseView<'a> {
    name: &'a str,
    has_conditions: bool,
    rows: Vec<RowView<'a>>,
}

#[derive(Serialize)]
struct RowView<'a> {
    quantity: &'a str,
    level: &'a str,
    name: &'a str,
    first: String,
    second: String,
    change: String,
    effect: String,
    p_corrected: String,
    class: &'static str,
    /// At equal conditions; empty where these say nothing of the quantity.
    equal_change: String,
    equal_p_corrected: String,
    equal_class: &'static str,
    /// Begin and length of the bar of the change, of a scale from halving to doubling.
    left: f64,
    width: f64,
}

impl<'a> RowView<'a> {
    fn of(row: &'a ComparedRow) -> Self {
        let unit = if row.quantity == "energy" { "J" } else { "s" };
        let probability = |p: Option<f64>| match p {
            Some(p) if p < 1e-4 => "< 0.0001".to_owned(),
            Some(p) => format!("{p:.4}"),
            None => "–".to_owned(),
        };
        let percent = |change: Option<f64>, ci95: Option<f64>| match (change, ci95) {
            (Some(change), Some(ci95)) => format!("{:+.1} ± {:.1} %", 100.0 * change, 100.0 * ci95),
            (Some(change), None) => format!("{:+.1} %", 100.0 * change),
            (None, _) => "–".to_owned(),
        };
        let class = |is_significant: bool, is_less: bool| match (is_significant, is_less) {
            (true, true) => "less",
            (true, false) => "more",
            (false, _) => "",
        };
        let equal = row.at_equal_conditions.as_ref();
        let end = 50.0 + 50.0 * (1.0 + row.change.unwrap_or(0.0)).clamp(0.5, 2.0).log2();
        RowView {
            quantity: row.quantity,
            level: row.level,
            name: &row.name,
            first: quantity::si(row.first, unit),
            second: quantity::si(row.second, unit),
            change: percent(row.change, row.change_ci95),
            effect: row.effect.map_or("–".to_owned(), |effect| format!("{effect:+.1}")),
            p_corrected: probability(row.p_corrected),
            class: class(row.is_significant, row.second < row.first),
            equal_change: equal.map_or(String::new(), |equal| percent(equal.change, equal.change_ci95)),
            equal_p_corrected: equal.map_or(String::new(), |equal| probability(equal.p_corrected)),
            equal_class: equal.map_or("", |equal| {
                class(equal.is_significant, equal.change.is_some_and(|change| change < 0.0))
            }),
            left: end.min(50.0),
            width: (end - 50.0).abs(),
        }
    }
}
