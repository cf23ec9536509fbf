//! What a planning run says about the model as a whole: which figures of a group go together, which kinds of layer
//! to quantize and which to keep, and why. Every sentence is made from the numbers beside it.

use serde::{Deserialize, Serialize};

use super::document::{GroupRow, Study};
use super::sensitivity::{Effect, Outcome};
use crate::report::quantity::{percent, si};
use crate::statistics::{pearson, spearman};

/// One kind of sensitivity is this much larger before it is called so.
const CLEARLY: f64 = 2.0;

/// What the run says of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The strategy at which groups are compared: of those that most groups can have, the one that spoils most.
    pub yardstick: String,
    /// Linear correlation of the groups' figures, and that of their ranks.
    pub correlations: Correlations,
    /// The kinds of layer, most energy first.
    pub kinds: Vec<KindRow>,
    /// What follows, in sentences.
    pub conclusion: Vec<String>,
}

/// Correlations of every pair of figures over the groups; `None` where one does not vary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correlations {
    /// The figures, by row and column.
    pub figures: Vec<String>,
    /// Groups they are taken over.
    pub groups: usize,
    /// Pearson's coefficient.
    pub pearson: Vec<Vec<Option<f64>>>,
    /// Spearman's coefficient.
    pub spearman: Vec<Vec<Option<f64>>>,
}

/// The groups of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindRow {
    /// What they do.
    pub kind: String,
    /// How many there are.
    pub groups: usize,
    /// Share of all parameters in groups.
    pub parameters_share: f64,
    /// Share of the energy of all groups, under the reference.
    pub energy_share: f64,
    /// Mean divergence of a group at the yardstick; `None` where none can have it.
    pub sensitivity_nats: Option<f64>,
    /// Mean divergence when a group's outputs are removed.
    pub removed_nats: f64,
    /// Largest saving that was found for a group, over all of the kind and any strategy, in the objective's unit.
    pub possible_saving: f64,
    /// How often the plan chose which strategy.
    pub chosen: Vec<(String, usize)>,
    /// Groups that the plan leaves as the reference has them.
    pub kept: usize,
    /// Groups that it gives 16 bits.
    pub halved: usize,
}

/// A group at the yardstick.
fn effect(group: &GroupRow, yardstick: usize) -> Option<&Effect> {
    match group.pairs.get(yardstick)?.outcome.as_ref()? {
        Outcome::Measured(effect) => Some(effect),
        Outcome::Infeasible { .. } => None,
    }
}

fn reference_energy_j(group: &GroupRow) -> f64 {
    group.pairs.first().and_then(|pair| pair.cost).map_or(0.0, |cost| cost.energy_j)
}

impl Findings {
    /// Draws the conclusions of a run.
    pub fn of(study: &Study) -> Findings {
        let yardstick = yardstick(study);
        let kinds = kinds(study, yardstick);
        let mut findings = Findings {
            yardstick: study.strategies[yardstick].clone(),
            correlations: Correlations::of(study, yardstick),
            conclusion: Vec::new(),
            kinds,
        };
        findings.conclusion = findings.sentences(study, yardstick);
        findings
    }

    fn sentences(&self, study: &Study, yardstick: usize) -> Vec<String> {
        let mut sentences: Vec<String> = self.kinds.iter().map(|row| self.advice(row, study)).collect();
        sentences.extend(self.rule_of_thumb());
        sentences.extend(self.within_the_blocks(study, yardstick));
        sentences.extend(self.associations());
        sentences
    }

    /// What to do with a kind of layer.
    fn advice(&self, row: &KindRow, study: &Study) -> String {
        let all: f64 =
            self.kinds.iter().filter_map(|kind| Some(kind.sensitivity_nats? * kind.groups as f64)).sum();
        let loss = match row.sensitivity_nats {
            Some(nats) => format!(
                "{} each at {} ({} of the loss of all)",
                si(nats, "nats"),
                self.yardstick,
                percent(if all > 0.0 { nats * row.groups as f64 / all } else { 0.0 })
            ),
            None => format!("cannot be {}", self.yardstick),
        };
        let chosen: Vec<String> =
            row.chosen.iter().map(|(name, count)| format!("{name} in {count}")).collect();
        let what = match (row.kept, row.halved) {
            (0, 0) => "quantize",
            (kept, _) if kept == row.groups => "keep",
            (0, halved) if halved == row.groups => "give 16 bits",
            _ => "quantize some",
        };
        let saving = si(row.possible_saving, study.objective.unit());
        let why = match what {
            "keep" if row.possible_saving <= 0.0 => {
                format!("no format saves {} beyond the noise", study.objective.name())
            }
            "keep" => format!("{saving} could be saved, and the limit on the loss is better spent elsewhere"),
            _ => format!("up to {saving} can be saved"),
        };
        format!(
            "{}: {what} ({}); {} of the energy in {} of the parameters, {loss}; {why}",
            row.kind,
            chosen.join(", "),
            percent(row.energy_share),
            percent(row.parameters_share),
        )
    }

    /// Mean loss of a group at the yardstick, over some kinds.
    fn loss_of(&self, is: impl Fn(&str) -> bool) -> Option<f64> {
        let rows = self.kinds.iter().filter(|row| is(&row.kind));
        let sums = rows.filter_map(|row| Some((row.sensitivity_nats? * row.groups as f64, row.groups)));
        let (nats, groups) = sums.fold((0.0, 0), |(nats, groups), row| (nats + row.0, groups + row.1));
        (groups > 0).then(|| nats / groups as f64)
    }

    /// Whether heads and embeddings are sensitive, and attention and feed-forward layers not.
    fn rule_of_thumb(&self) -> Vec<String> {
        let is_end = |kind: &str| kind.contains("embedding") || kind.contains("head");
        let Some(blocks) = self.loss_of(|kind| !is_end(kind)) else { return Vec::new() };
        let verdict = |what: &str, nats: f64| {
            let ratio = nats / blocks;
            let verdict = match ratio {
                ratio if ratio >= CLEARLY => "confirmed",
                ratio if ratio <= 1.0 / CLEARLY => "refuted",
                _ => "neither confirmed nor refuted",
            };
            format!(
                "that {what} more sensitive than the layers is {verdict} here: {} against {} for a group of attention or feed-forward at {} ({ratio:.2} times)",
                si(nats, "nats"),
                si(blocks, "nats"),
                self.yardstick,
            )
        };
        let is_tied = |kind: &str| kind.contains("embedding") && kind.contains("head");
        let ends: [(&str, Option<f64>); 3] = [
            ("the table that is also the head is", self.loss_of(is_tied)),
            ("embeddings are", self.loss_of(|kind| kind.contains("embedding") && !is_tied(kind))),
            ("heads are", self.loss_of(|kind| kind.contains("head") && !is_tied(kind))),
        ];
        ends.into_iter().filter_map(|(what, nats)| Some(verdict(what, nats?))).collect()
    }

    /// Whether attention or feed-forward layers lose more, and early or late ones.
    fn within_the_blocks(&self, study: &Study, yardstick: usize) -> Vec<String> {
        let mut sentences = Vec::new();
        let attention = self.loss_of(|kind| kind.starts_with("attention"));
        let mlp = self.loss_of(|kind| kind.starts_with("mlp"));
        if let Some((attention, mlp)) = attention.zip(mlp) {
            let (more, less) =
                if mlp > attention { ("feed-forward", "attention") } else { ("attention", "feed-forward") };
            sentences.push(format!(
                "quantizing {more} loses more than quantizing {less}: {} against {} a group at {}",
                si(mlp.max(attention), "nats"),
                si(mlp.min(attention), "nats"),
                self.yardstick
            ));
        }
        let layers = study.groups.iter().filter_map(|group| {
            Some((f64::from(group.block?), effect(group, yardstick)?.divergence.kl_nats.mean))
        });
        let (depth, loss): (Vec<f64>, Vec<f64>) = layers.unzip();
        if let Some(correlation) = spearman(&depth, &loss) {
            let trend = match correlation {
                c if c <= -0.5 => "early layers are the sensitive ones",
                c if c >= 0.5 => "late layers are the sensitive ones",
                _ => "early and late layers do not differ much",
            };
            sentences.push(format!(
                "{trend}: rank correlation of a layer's number with its loss {correlation:+.2}"
            ));
        }
        sentences
    }

    /// What goes with the loss, and what does not.
    fn associations(&self) -> Option<String> {
        let place = |name: &str| self.correlations.figures.iter().position(|figure| figure == name);
        let loss = place("loss")?;
        let with = |name: &str| self.correlations.spearman[loss][place(name)?];
        let parts: Vec<String> =
            ["energy", "parameters", "weight error", "output error", "removed", "perturbed"]
                .into_iter()
                .filter_map(|name| Some(format!("{name} {:+.2}", with(name)?)))
                .collect();
        (!parts.is_empty()).then(|| {
            format!(
                "rank correlation of a group's loss at {} with its other figures: {}",
                self.yardstick,
                parts.join(", ")
            )
        })
    }
}

/// The place of the strategy that most groups can have and that spoils most.
fn yardstick(study: &Study) -> usize {
    let reach = |strategy: &usize| {
        let effects: Vec<f64> = study
            .groups
            .iter()
            .filter_map(|group| Some(effect(group, *strategy)?.divergence.kl_nats.mean))
            .collect();
        (effects.len(), effects.iter().sum::<f64>())
    };
    // Formats of 16 bits can be had by every group and spoil nothing: they are no yardstick while there are others.
    let narrow = |strategy: &usize| {
        study
            .groups
            .iter()
            .filter_map(|group| effect(group, *strategy))
            .any(|effect| effect.weight_nmse > 1e-5)
    };
    let all = || 1..study.strategies.len();
    let by = |a: &usize, b: &usize| {
        let (a, b) = (reach(a), reach(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    };
    all().filter(narrow).max_by(by).or_else(|| all().max_by(by)).unwrap_or(0)
}

fn kinds(study: &Study, yardstick: usize) -> Vec<KindRow> {
    let mut names: Vec<&str> = study.groups.iter().map(|group| group.kind.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let parameters: f64 = study.groups.iter().map(|group| group.parameters as f64).sum();
    let energy_j: f64 = study.groups.iter().map(reference_energy_j).sum();
    let mut rows: Vec<KindRow> = names
        .into_iter()
        .map(|kind| {
            let members: Vec<usize> =
                (0..study.groups.len()).filter(|index| study.groups[*index].kind == kind).collect();
            let groups = || members.iter().map(|index| &study.groups[*index]);
            let losses: Vec<f64> = groups()
                .filter_map(|group| Some(effect(group, yardstick)?.divergence.kl_nats.mean))
                .collect();
            let mut chosen: Vec<(String, usize)> = Vec::new();
            for index in &members {
                let strategy = &study.chosen.strategies[*index];
                match chosen.iter_mut().find(|(name, _)| name == strategy) {
                    Some((_, count)) => *count += 1,
                    None => chosen.push((strategy.clone(), 1)),
                }
            }
            chosen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let strategies = || members.iter().map(|index| &study.chosen.strategies[*index]);
            let kept = strategies().filter(|name| **name == study.strategies[0]).count();
            let wide = strategies().filter(|name| is_wide(name)).count();
            KindRow {
                kind: kind.to_owned(),
                groups: members.len(),
                parameters_share: groups().map(|group| group.parameters as f64).sum::<f64>() / parameters,
                energy_share: groups().map(reference_energy_j).sum::<f64>() / energy_j,
                sensitivity_nats: (!losses.is_empty())
                    .then(|| losses.iter().sum::<f64>() / losses.len() as f64),
                removed_nats: groups().map(|group| group.impact.removed.kl_nats.mean).sum::<f64>()
                    / members.len() as f64,
                possible_saving: members.iter().map(|index| possible_saving(study, *index)).sum(),
                chosen,
                kept,
                halved: wide.saturating_sub(kept),
            }
        })
        .collect();
    rows.sort_by(|a, b| b.energy_share.total_cmp(&a.energy_share));
    rows
}

/// Formats of 16 bits or more, by the name of the strategy.
fn is_wide(strategy: &str) -> bool {
    strategy
        .parse::<joulewise_engine::Strategy>()
        .is_ok_and(|strategy| strategy.precision().weight.spec().code_bits >= 16)
}

/// What the planner's cheapest choice of a group saves.
fn possible_saving(study: &Study, group: usize) -> f64 {
    let Some(choices) = study.problem.groups.get(group) else { return 0.0 };
    let cost = |choice: &super::problem::Choice| study.objective.of(&choice.totals);
    let reference = choices.iter().find(|choice| choice.strategy == 0).or(choices.first()).map_or(0.0, cost);
    reference - choices.iter().map(cost).fold(reference, f64::min)
}

impl Correlations {
    fn of(study: &Study, yardstick: usize) -> Correlations {
        let groups: Vec<(&GroupRow, &Effect)> =
            study.groups.iter().filter_map(|group| Some((group, effect(group, yardstick)?))).collect();
        type Of = fn(&GroupRow, &Effect) -> f64;
        let figures: [(&str, Of); 10] = [
            ("energy", |group, _| reference_energy_j(group)),
            ("time", |group, _| {
                group.pairs.first().and_then(|pair| pair.cost).map_or(0.0, |cost| cost.duration_s)
            }),
            ("flops", |group, _| group.flops),
            ("bytes", |group, _| group.bytes),
            ("parameters", |group, _| group.parameters as f64),
            ("weight error", |_, effect| effect.weight_nmse),
            ("output error", |_, effect| effect.output_nmse),
            ("removed", |group, _| group.impact.removed.kl_nats.mean),
            ("perturbed", |group, _| group.impact.perturbed.kl_nats.mean),
            ("loss", |_, effect| effect.divergence.kl_nats.mean),
        ];
        let columns: Vec<Vec<f64>> = figures
            .iter()
            .map(|(_, of)| groups.iter().map(|(group, effect)| of(group, effect)).collect())
            .collect();
        let matrix = |of: fn(&[f64], &[f64]) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
            columns.iter().map(|a| columns.iter().map(|b| of(a, b)).collect()).collect()
        };
        Correlations {
            figures: figures.iter().map(|(name, _)| (*name).to_owned()).collect(),
            groups: groups.len(),
            pearson: matrix(pearson),
            spearman: matrix(spearman),
        }
    }
}
