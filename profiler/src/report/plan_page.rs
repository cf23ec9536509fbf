//! `plan.html`: a planning run as one page for people, without anything that has to be fetched.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::planner::document::{Pareto, Study};
use crate::planner::plan_file::reasons;
use crate::report::plan_chart::{HeatRow, Plot, losses, matrix};
use crate::report::plan_table;
use crate::report::table::Table;

const TEMPLATE: &str = include_str!("../../templates/plan.html");

/// Renders a planning run as a page of its own.
///
/// # Errors
/// [`ProfilerError::Report`].
pub fn render(study: &Study, pareto: &Pareto) -> Result<String> {
    let failed = |error: minijinja::Error| ProfilerError::Report(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("plan.html", TEMPLATE).map_err(failed)?;
    let page = Page::of(study, pareto);
    environment.get_template("plan.html").and_then(|template| template.render(Serde(page))).map_err(failed)
}

#[derive(Serialize)]
struct Page {
    model: String,
    generator: String,
    facts: Vec<(String, String)>,
    is_estimated: bool,
    verdicts: Vec<String>,
    conclusion: Vec<String>,
    notes: Vec<String>,
    front: Option<Plot>,
    scatter: Option<Plot>,
    yardstick: String,
    kind_classes: Vec<(String, String)>,
    strategies: Vec<String>,
    losses: Vec<HeatRow>,
    figures: Vec<String>,
    pearson: Vec<HeatRow>,
    spearman: Vec<HeatRow>,
    kinds: TableView,
    verified: TableView,
    groups: Vec<GroupView>,
    front_plans: String,
}

#[derive(Serialize)]
struct TableView {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

#[derive(Serialize)]
struct GroupView {
    name: String,
    kind: String,
    chosen: String,
    is_pinned: bool,
    reasons: Vec<String>,
}

fn view(table: Table) -> TableView {
    TableView { header: table.header, rows: table.rows }
}

impl Page {
    fn of(study: &Study, pareto: &Pareto) -> Page {
        let findings = &study.findings;
        let request = &study.request;
        let data = |shape: &crate::planner::document::DataShape| {
            format!("{} ({} texts, {} answers)", shape.source, shape.texts, shape.items)
        };
        let facts = [
            ("device", study.device.clone()),
            (
                "request",
                format!(
                    "{} x {} tokens, {} generated",
                    request.batch, request.prompt_tokens, request.generated_tokens
                ),
            ),
            ("planned on", data(&study.probe)),
            ("verified on", data(&study.holdout)),
            ("energy by", format!("{} [{}]", study.costs.sensor, study.costs.provenance)),
        ];
        let group = |(index, group): (usize, &crate::planner::document::GroupRow)| {
            let reason = &study.chosen.reasons[index];
            GroupView {
                name: group.name.clone(),
                kind: group.kind.clone(),
                chosen: study.chosen.strategies[index].clone(),
                is_pinned: study.chosen.pinned[index],
                reasons: reasons(study, index, reason.cheaper.as_ref(), reason.safer.as_ref()),
            }
        };
        Page {
            model: study.model.clone(),
            generator: study.generator.clone(),
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            is_estimated: study.costs.provenance == Provenance::Estimated,
            verdicts: plan_table::verdict(study),
            conclusion: findings.conclusion.clone(),
            notes: study.notes.clone(),
            front: Plot::front(study, pareto),
            scatter: Plot::scatter(study, &findings.yardstick),
            yardstick: findings.yardstick.clone(),
            kind_classes: findings
                .kinds
                .iter()
                .map(|row| (row.kind.clone(), row.kind.replace('.', "-").replace(" + ", " ")))
                .collect(),
            strategies: study.strategies[1..].to_vec(),
            losses: losses(study),
            figures: findings.correlations.figures.clone(),
            pearson: matrix(&findings.correlations.figures, &findings.correlations.pearson),
            spearman: matrix(&findings.correlations.figures, &findings.correlations.spearman),
            kinds: view(plan_table::kinds(study)),
            verified: view(plan_table::verified(study)),
            groups: study.groups.iter().enumerate().map(group).collect(),
            front_plans: format!(
                "{} plans on the front{}",
                pareto.plans,
                if pareto.is_exact { "" } else { ", thinned while searching" }
            ),
        }
    }
}
