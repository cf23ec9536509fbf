//! A planning run as tables for people.

use crate::planner::document::Study;
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
                si(other.energy_change_j, "J"),
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

/// One row per model on held-out data, by rising energy.
pub fn verified(study: &Study) -> Table {
    let Some(reference) = study.verified_reference() else { return table(&[], Vec::new()) };
    let mut models: Vec<&Verified> = study.verified.iter().collect();
    models.sort_by(|a, b| a.energy().mean.total_cmp(&b.energy().mean));
    let rows = models.into_iter().map(|model| {
        let divergence = &model.divergence;
        let energy = model.energy();
        let loss = divergence
            .loss_change_nats
            .map_or("–".to_owned(), |loss| si_with_ci(loss.mean, loss.ci95, "nats"));
        vec![
            model.name.clone(),
            si_with_ci(energy.mean, energy.ci95, "J"),
            model.saving_over(reference).map_or("–".to_owned(), saving),
            si_with_ci(divergence.kl_nats.mean, divergence.kl_nats.ci95, "nats"),
            loss,
            percent(divergence.agreement),
            lost_and_won(model),
            si(model.weight_bytes, "B"),
        ]
    });
    let header = [
        "model",
        "energy per request",
        "saves",
        "mean KL",
        "loss change",
        "same answer",
        "lost / won",
        "weights",
    ];
    table(&header, rows.collect())
}

/// A saving in per cent with its interval.
pub fn saving(saving: Saving) -> String {
    match saving.ci95 {
        Some(ci95) => format!("{:.1} ± {:.1} %", 100.0 * saving.share, 100.0 * ci95),
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
    if let Some(saved) = plan.saving_over(reference) {
        lines.push(format!(
            "energy: {} (saves {} of {}, {} [{}])",
            study.energy_verdict.name(),
            saving(saved),
            reference.name,
            study.costs.sensor,
            study.costs.provenance,
        ));
    }
    let rivals = study.rivals();
    for rival in &rivals {
        if let Some(saved) = plan.saving_over(rival) {
            lines.push(format!(
                "against {}, which answers as well or better: saves {}",
                rival.name,
                saving(saved)
            ));
        }
    }
    let best = rivals.iter().min_by(|a, b| a.energy().mean.total_cmp(&b.energy().mean));
    if let Some(saved) = best.and_then(|best| plan.saving_over(best)) {
        let beats = match saved.verdict() {
            crate::planner::verify::Verdict::Pass => {
                "the plan beats every uniform strategy of equal or better quality"
            }
            crate::planner::verify::Verdict::Fail => {
                "a uniform strategy of equal or better quality uses less than the plan"
            }
            crate::planner::verify::Verdict::Inconclusive => {
                "the plan and the best uniform strategy of equal or better quality cannot be told apart"
            }
        };
        lines.push(beats.to_owned());
    }
    if let Some(bound) = &study.chosen.bound {
        let gap = study.chosen.predicted.energy_j / bound.energy_j - 1.0;
        lines.push(format!(
            "no plan of its predicted loss uses less than {}; the plan is {:.2} % above that; the last nat saves {}",
            si(bound.energy_j, "J"),
            100.0 * gap,
            si(bound.price_j_per_nat, "J"),
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
    lines
}
