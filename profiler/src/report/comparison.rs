//! A comparison for people: a table, and a page without anything that has to be fetched.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::comparison::{ComparedRow, PhaseComparison, ProfileComparison};
use crate::error::{ProfilerError, Result};
use crate::report::quantity;
use crate::report::table::Table;

const TEMPLATE: &str = include_str!("../../templates/comparison.html");

/// The rows of a phase; those of single modules only when `with_modules`.
pub fn table(phase: &PhaseComparison, with_modules: bool) -> Table {
    let header = ["part", "quantity", "verdict", "first", "second", "change", "effect", "p corrected"];
    let rows = phase.rows.iter().filter(|row| with_modules || row.level != "module").map(|row| {
        let view = RowView::of(row);
        let name = if row.level == "kind" { format!("kind {}", row.name) } else { row.name.clone() };
        vec![
            name,
            row.quantity.to_owned(),
            view.class.to_owned(),
            view.first,
            view.second,
            view.change,
            view.effect,
            view.p_corrected,
        ]
    });
    Table { header: header.map(str::to_owned).to_vec(), rows: rows.collect() }
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
            .map(|phase| PhaseView { name: &phase.name, rows: phase.rows.iter().map(RowView::of).collect() })
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
    p: String,
    p_corrected: String,
    class: &'static str,
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
        let end = 50.0 + 50.0 * (1.0 + row.change.unwrap_or(0.0)).clamp(0.5, 2.0).log2();
        let ci95 = row.change_ci95.map_or(String::new(), |ci95| format!(" ± {:.1}", 100.0 * ci95));
        RowView {
            quantity: row.quantity,
            level: row.level,
            name: &row.name,
            first: quantity::si(row.first, unit),
            second: quantity::si(row.second, unit),
            change: row.change.map_or("–".to_owned(), |change| format!("{:+.1}{ci95} %", 100.0 * change)),
            effect: row.effect.map_or("–".to_owned(), |effect| format!("{effect:+.1}")),
            p: probability(row.p_value),
            p_corrected: probability(row.p_corrected),
            class: match (row.is_significant, row.second < row.first) {
                (true, true) => "less",
                (true, false) => "more",
                (false, _) => "",
            },
            left: end.min(50.0),
            width: (end - 50.0).abs(),
        }
    }
}
