//! A planning run as tables for people.

use crate::planner::additivity::Additivity;
use crate::planner::document::Study;
use crate::planner::problem::Objective;
use crate::planner::sensitivity::Outcome;
use crate::planner::verify::{Saving, Verified, mcnemar};
use crate::report::quantity::{percent, si, si_with_ci};
use crate::report::table::Table;

fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table { header: header.iter().map(|name| (*name).to_owned()).collect(), rows }
}

/// One row per group: what it got, what that costs and saves, and what its neighbours would.
pub fn groups(study: &Study) -> Table {
    let mut rows = Vec::new();
    for (index, group) in study.groups.iter().enumerate() {
        let chosen = &study.chosen.strategies[index];
        let place = study.strategies.iter().position(|name| name == chosen).unwrap_or(0);
        let pair = &group.pairs[place];
        let loss = match &pair.outcome {
            Some(Outcome::Measured(effect)) => {
                si_with_ci(effect.divergence.kl_nats.mean, effect.divergence.kl_nats.ci95, "nats")
            }
            _ => "–".to_owned(),
        };
        let saving = pair
            .cost
            .filter(|_| place > 0)
            .map_or("–".to_owned(), |cost| si_with_ci(cost.saving_j, cost.saving_ci95_j, "J"));
        let name = |strategy: usize| study.strategies[strategy].clone();
        let reason = &study.chosen.reasons[index];
        let cheaper = reason.cheaper.map_or("–".to_owned(), |other| {
            format!(
                "{}: {}, +{}",
                name(other.strategy),
                si(other.cost_change, study.objective.unit()),
                si(other.sensitivity_change_nats, "nats")
            )
        });
        let pinned = if study.chosen.pinned[index] { " (pinned)" } else { "" };
        rows.push(vec![
            group.name.clone(),
            group.kind.clone(),
            format!("{chosen}{pinned}"),
            loss,
            saving,
            cheaper,
        ]);
    }
    table(&["group", "kind", "keeps as", "loss alone", "saves per request", "next cheaper"], rows)
}

/// One row per kind of layer: what it takes, what it loses at the yardstick, what can be saved, what was chosen.
pub fn kinds(study: &Study) -> Table {
    let unit = study.objective.unit();
    let rows = study.findings.kinds.iter().map(|row| {
        let chosen: Vec<String> = row.chosen.iter().map(|(name, count)| format!("{count} {name}")).collect();
        vec![
            row.kind.clone(),
            row.groups.to_string(),
            percent(row.energy_share),
            percent(row.parameters_share),
            row.sensitivity_nats.map_or("–".to_owned(), |nats| si(nats, "nats")),
            si(row.removed_nats, "nats"),
            si(row.possible_saving, unit),
            chosen.join(", "),
        ]
    });
    let loss = format!("loss of one as {}", study.findings.yardstick);
    let header = ["kind", "groups", "energy", "parameters", &loss, "loss of one removed", "can save", "plan"];
    table(&header, rows.collect())
}

/// One row per figure: its rank correlations with the others.
pub fn rank_correlations(study: &Study) -> Table {
    let correlations = &study.findings.correlations;
    let rows = correlations.figures.iter().zip(&correlations.spearman).map(|(name, row)| {
        let cell = |value: &Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:+.2}"));
        [name.clone()].into_iter().chain(row.iter().map(cell)).collect()
    });
    let header: Vec<&str> = [""].into_iter().chain(correlations.figures.iter().map(String::as_str)).collect();
    table(&header, rows.collect())
}

/// One row per model on held-out data, by rising cost.
pub fn verified(study: &Study) -> Table {
    let Some(plan) = study.verified_plan() else { return table(&[], Vec::new()) };
    let cost = |model: &Verified, objective| model.cost(plan, objective);
    let mut models: Vec<&Verified> = study.verified.iter().collect();
    let of = |model: &Verified| cost(model, study.objective).value;
    models.sort_by(|a, b| of(a).total_cmp(&of(b)));
    let rows = models.into_iter().map(|model| {
        let divergence = &model.divergence;
        let energy = cost(model, Objective::Energy);
        let loss = divergence
            .loss_change_nats
            .map_or("–".to_owned(), |loss| si_with_ci(loss.mean, loss.ci95, "nats"));
        let saved = study.saving_of(model).map_or("–".to_owned(), saving);
        vec![
            model.name.clone(),
            si_with_ci(energy.value, energy.half_width(), "J"),
            si(cost(model, Objective::Time).value, "s"),
            si(model.weight_bytes, "B"),
            saved,
            si_with_ci(divergence.kl_nats.mean, divergence.kl_nats.ci95, "nats"),
            loss,
            percent(divergence.agreement),
            lost_and_won(model),
        ]
    });
    let header = [
        "model",
        "energy per request",
        "time",
        "weights",
        "plan saves",
        "mean KL",
        "loss change",
        "same answer",
        "lost / won",
    ];
    table(&header, rows.collect())
}

/// One row per random plan: the sum of its groups and what it took when it was run.
pub fn random_plans(energies: &Additivity) -> Table {
    let rows = energies.trials.iter().map(|trial| {
        vec![
            si(trial.predicted, "J"),
            si_with_ci(trial.measured, trial.measured_ci95, "J"),
            format!("{:+.1} %", 100.0 * (trial.predicted / trial.measured - 1.0)),
        ]
    });
    table(&["random plan: sum of its groups", "energy per request", "error"], rows.collect())
}

/// A saving in per cent with its interval.
pub fn saving(saving: Saving) -> String {
    match saving.ci95 {
        Some((low, high)) if low == high => percent(saving.share),
        Some((low, high)) => {
            format!("{:.1} % [{:.1}, {:.1}]", 100.0 * saving.share, 100.0 * low, 100.0 * high)
        }
        None => percent(saving.share),
    }
}

fn lost_and_won(model: &Verified) -> String {
    model
        .divergence
        .lost_and_won
        .map_or("–".to_owned(), |(lost, won)| format!("{lost} / {won} (p {:.2})", mcnemar(lost, won)))
}

/// Whether the plan keeps its promise, in sentences.
pub fn verdict(study: &Study) -> Vec<String> {
    let mut lines = Vec::new();
    let (Some(reference), Some(plan)) = (study.verified_reference(), study.verified_plan()) else {
        return lines;
    };
    let limit = study.limits.sensitivity_nats;
    lines.push(format!(
        "loss: {} (mean KL {} on {} held-out answers, limit {})",
        study.loss_verdict.name(),
        si_with_ci(plan.divergence.kl_nats.mean, plan.divergence.kl_nats.ci95, "nats"),
        plan.divergence.items,
        limit.map_or("none".to_owned(), |limit| si(limit, "nats")),
    ));
    if let Some(saved) = study.saving_of(reference) {
        lines.push(format!(
            "{}: {} (saves {} of {}{})",
            study.objective.name(),
            study.cost_verdict.name(),
            saving(saved),
            reference.name,
            match study.objective {
                Objective::Energy => format!(", {} [{}]", study.costs.sensor, study.costs.provenance),
                _ => String::new(),
            },
        ));
    }
    lines.push(study.against_uniform().sentence());
    lines.extend(study.room_below_rivals().iter().map(|room| {
        let unit = study.objective.unit();
        // A sum in another order may fall a unit in the last place below.
        let share = (1.0 - room.bound / room.cost).max(0.0);
        format!(
            "no plan that is predicted to lose as little as {} everywhere costs less than {}, {:.2} % below what that adds up to ({})",
            room.name,
            si(room.bound, unit),
            100.0 * share,
            si(room.cost, unit),
        )
    }));
    if let Some(bound) = &study.chosen.bound {
        let gap = study.objective.of(&study.chosen.predicted) / bound.cost - 1.0;
        let unit = study.objective.unit();
        lines.push(format!(
            "no plan of its predicted loss costs less than {}; the plan is {:.2} % above that; the last nat saves {}",
            si(bound.cost, unit),
            // A sum in another order may fall a unit in the last place below.
            100.0 * gap.max(0.0),
            si(bound.price_per_nat, unit),
        ));
    }
    for (what, fit) in [("losses", &study.additive_loss), ("energies", &study.additive_energy)] {
        if let Some(fit) = fit {
            lines.push(format!(
                "{what} of {} random plans against the sum of their groups: slope {:.2}, R² {:.3}, rank correlation {:.3}, mean error {:.1} %",
                fit.trials.len(),
                fit.slope,
                fit.r_squared,
                fit.spearman,
                100.0 * fit.mean_absolute_error_relative,
            ));
        }
    }
    lines.extend(closures(study));
    lines
}

/// How far modules that are measured apart add up to what strategies take in one piece.
fn closures(study: &Study) -> Option<String> {
    let all = study.strategies.iter().zip(&study.costs.closures);
    let all = all.filter_map(|(strategy, closure)| Some((strategy, (*closure)?)));
    let by = |a: &(&String, f64), b: &(&String, f64)| a.1.total_cmp(&b.1);
    let (least, most) = (all.clone().min_by(by)?, all.max_by(by)?);
    Some(format!(
        "a group has its share of what each strategy takes in one piece; apart, modules add up to {:.1} % ({}) to {:.1} % ({}) of that",
        100.0 * least.1,
        least.0,
        100.0 * most.1,
        most.0,
    ))
}
