//! Geometry of the drawings of a plan's page: fronts, scatters and heat maps.
//!
//! Coordinates are in per cent of the drawing, which the page stretches; labels are text of the page beside it.

use std::cmp::Ordering;

use serde::Serialize;

use crate::planner::document::{GroupRow, Pareto, Study};
use crate::planner::sensitivity::Outcome;
use crate::planner::verify::Verified;
use crate::report::quantity::{self, si};

/// Dots, a line through some of them, and axes.
#[derive(Serialize)]
pub(crate) struct Plot {
    dots: Vec<Dot>,
    line: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    x_name: String,
    y_name: String,
}

#[derive(Serialize)]
struct Dot {
    x: f64,
    y: f64,
    class: String,
    label: String,
    /// Height of the label, and whether it stands on the left.
    label_y: f64,
    is_left: bool,
    title: String,
}

#[derive(Serialize)]
struct Tick {
    at: f64,
    label: String,
}

/// A cell of a heat map.
#[derive(Serialize)]
pub(crate) struct Cell {
    text: String,
    title: String,
    /// Strength of the colour, from -1 to 1.
    heat: f64,
    is_chosen: bool,
    is_excluded: bool,
}

/// A row of a heat map.
#[derive(Serialize)]
pub(crate) struct HeatRow {
    name: String,
    cells: Vec<Cell>,
}

/// A logarithmic or linear axis from the least to the largest value, with room at both ends.
struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
}

impl Axis {
    fn logarithmic(values: impl Iterator<Item = f64>) -> Axis {
        let positive = values.filter(|value| *value > 0.0).map(f64::log10);
        let (low, high) =
            positive.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low.is_finite() { (low.floor(), high.ceil()) } else { (-1.0, 0.0) };
        // What is below a billionth of the largest is drawn at the edge.
        Axis { low: low.max(high - 9.0), high: high.max(low + 1.0), is_logarithmic: true }
    }

    fn linear(values: impl Iterator<Item = f64>) -> Axis {
        let high = values.fold(0.0, f64::max);
        Axis { low: 0.0, high: if high > 0.0 { high } else { 1.0 }, is_logarithmic: false }
    }

    /// Place of a value in per cent.
    fn at(&self, value: f64) -> f64 {
        let value = match self.is_logarithmic {
            true if value > 0.0 => value.log10(),
            true => self.low,
            false => value,
        };
        4.0 + 92.0 * ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self, unit: &str) -> Vec<Tick> {
        let label = |value: f64| {
            let text = si(value, unit);
            let (number, rest) = text.split_once(' ').unwrap_or((&text, ""));
            let number = if number.contains('.') {
                number.trim_end_matches('0').trim_end_matches('.')
            } else {
                number
            };
            format!("{number} {rest}")
        };
        let tick = |value: f64| Tick { at: self.at(value), label: label(value) };
        if self.is_logarithmic {
            let step = ((self.high - self.low) / 6.0).ceil().max(1.0);
            let count = ((self.high - self.low) / step).floor() as usize;
            return (0..=count).map(|i| tick(10f64.powf(self.low + step * i as f64))).collect();
        }
        // 1, 2 or 5 of a power of ten, so that there are four to eight.
        let decade = 10f64.powf((self.high / 3.0).log10().floor());
        let step = [5.0, 2.0].into_iter().map(|of| of * decade).find(|step| 3.0 * step <= self.high);
        let step = step.unwrap_or(decade);
        (0..=(self.high / step * (1.0 + 1e-9)).floor() as usize).map(|i| tick(step * i as f64)).collect()
    }
}

/// Puts labels where they do not cover each other: beside their dots, else a line or more above or below. The size of text
/// is that of a drawing half as wide as the page.
fn place_labels(dots: &mut [Dot]) {
    const LINE: f64 = 4.4;
    const LETTER: f64 = 1.5;
    const GAP: f64 = 2.0;
    let mut order: Vec<usize> = (0..dots.len()).filter(|&i| !dots[i].label.is_empty()).collect();
    // The plan keeps its place, then from the top down.
    order.sort_by(|&a, &b| {
        (dots[a].class != "plan", dots[a].y)
            .partial_cmp(&(dots[b].class != "plan", dots[b].y))
            .unwrap_or(Ordering::Equal)
    });
    // Dots are in the way, too.
    let mut taken: Vec<[f64; 3]> = dots.iter().map(|dot| [dot.x - GAP, dot.x + GAP, dot.y]).collect();
    for index in order {
        let dot = &dots[index];
        let width = LETTER * dot.label.chars().count() as f64;
        let shifts =
            (0..=8).map(|step: i32| f64::from((step + 1) / 2) * if step % 2 == 0 { LINE } else { -LINE });
        let sides = [false, true].map(|is_left| {
            let from = if is_left { dot.x - GAP - width } else { dot.x + GAP };
            (is_left, from, from + width)
        });
        let places = shifts.flat_map(|shift| sides.map(|side| (side, dot.y + shift)));
        let is_free = |((_, from, to), y): &((bool, f64, f64), f64)| {
            let covers = |other: &[f64; 3]| *from < other[1] && other[0] < *to && (y - other[2]).abs() < LINE;
            *from >= 0.0 && *to <= 100.0 && (0.0..=100.0).contains(y) && !taken.iter().any(covers)
        };
        let ((is_left, from, to), y) = places.into_iter().find(is_free).unwrap_or((sides[0], dot.y));
        taken.push([from, to, y]);
        (dots[index].is_left, dots[index].label_y) = (is_left, y);
    }
}

fn flipped(mut ticks: Vec<Tick>) -> Vec<Tick> {
    ticks.iter_mut().for_each(|tick| tick.at = 100.0 - tick.at);
    ticks
}

impl Plot {
    /// Cost against loss: the predicted front as a line, every model that was verified as a dot.
    pub(crate) fn front(study: &Study, pareto: &Pareto) -> Option<Plot> {
        let plan = study.verified_plan()?;
        let objective = study.objective;
        let of = |totals| objective.of(totals);
        let cost = |model: &Verified| model.cost(plan, objective).value;
        // Costs were predicted and verified at different times: the reference's stands for both.
        let scale = objective.of(&study.chosen.reference) / cost(study.verified_reference()?);
        let verified: Vec<(f64, f64, &Verified)> = study
            .verified
            .iter()
            .map(|model| (model.divergence.kl_nats.mean, scale * cost(model), model))
            .collect();
        let losses = || {
            let front = pareto.points.iter().map(|point| point.totals.sensitivity_nats);
            front.chain(verified.iter().map(|model| model.0)).chain(study.limits.sensitivity_nats)
        };
        let costs =
            pareto.points.iter().map(|point| of(&point.totals)).chain(verified.iter().map(|model| model.1));
        let (x, y) = (Axis::logarithmic(losses()), Axis::linear(costs));
        // A staircase: between two plans, the safer one is the best there is.
        let mut line = String::new();
        let mut last: Option<f64> = None;
        for point in &pareto.points {
            let (at_x, at_y) = (x.at(point.totals.sensitivity_nats), 100.0 - y.at(of(&point.totals)));
            if let Some(last) = last {
                line.push_str(&format!("{at_x:.2},{last:.2} "));
            }
            line.push_str(&format!("{at_x:.2},{at_y:.2} "));
            last = Some(at_y);
        }
        let dots = verified.iter().map(|(loss, cost, model)| Dot {
            x: x.at(*loss),
            y: 100.0 - y.at(*cost),
            class: if model.name == plan.name { "plan" } else { "uniform" }.to_owned(),
            label: model.name.clone(),
            label_y: 0.0,
            is_left: false,
            title: format!(
                "{}: {} at a loss of {}",
                model.name,
                si(*cost, objective.unit()),
                si(*loss, "nats")
            ),
        });
        let mut dots: Vec<Dot> = dots.collect();
        place_labels(&mut dots);
        Some(Plot {
            dots,
            line: line.trim_end().to_owned(),
            x_ticks: x.ticks("nats"),
            y_ticks: flipped(y.ticks(objective.unit())),
            x_name: "mean KL from the reference".to_owned(),
            y_name: objective.name().to_owned(),
        })
    }

    /// Loss of each group under a strategy against the energy it takes in the reference.
    pub(crate) fn scatter(study: &Study, yardstick: &str) -> Option<Plot> {
        let place = study.strategies.iter().position(|name| name == yardstick)?;
        let groups: Vec<(f64, f64, &GroupRow)> = study
            .groups
            .iter()
            .filter_map(|group| Some((group.pairs.first()?.cost?.energy_j, loss(group, place)?, group)))
            .collect();
        let x = Axis::linear(groups.iter().map(|group| group.0));
        let y = Axis::logarithmic(groups.iter().map(|group| group.1));
        let dots = groups.iter().map(|(energy_j, nats, group)| Dot {
            x: x.at(*energy_j),
            y: 100.0 - y.at(*nats),
            class: group.kind.replace('.', "-").replace(" + ", " "),
            label: String::new(),
            label_y: 0.0,
            is_left: false,
            title: format!("{} ({}): {}, {}", group.name, group.kind, si(*energy_j, "J"), si(*nats, "nats")),
        });
        Some(Plot {
            dots: dots.collect(),
            line: String::new(),
            x_ticks: x.ticks("J"),
            y_ticks: flipped(y.ticks("nats")),
            x_name: "energy of a request under the reference".to_owned(),
            y_name: format!("mean KL as {yardstick}"),
        })
    }
}

fn loss(group: &GroupRow, strategy: usize) -> Option<f64> {
    match group.pairs.get(strategy)?.outcome.as_ref()? {
        Outcome::Measured(effect) => Some(effect.divergence.kl_nats.mean),
        Outcome::Infeasible { .. } => None,
    }
}

/// Loss of every group under every strategy but the reference, by colour.
pub(crate) fn losses(study: &Study) -> Vec<HeatRow> {
    let all = || study.groups.iter().flat_map(|group| (1..study.strategies.len()).map(|s| loss(group, s)));
    let axis = Axis::logarithmic(all().flatten());
    let row = |(index, group): (usize, &GroupRow)| HeatRow {
        name: group.name.clone(),
        cells: (1..study.strategies.len())
            .map(|strategy| {
                let pair = &group.pairs[strategy];
                let name = &study.strategies[strategy];
                let nats = loss(group, strategy);
                let mut title = format!("{} as {name}", group.name);
                if let Some(nats) = nats {
                    title.push_str(&format!(": {}", si(nats, "nats")));
                }
                if let Some(cost) = pair.cost {
                    title.push_str(&format!(
                        ", saves {}",
                        quantity::si_with_ci(cost.saving_j, cost.saving_ci95_j, "J")
                    ));
                }
                if let Some(cause) = &pair.excluded {
                    title.push_str(&format!("; {cause}"));
                }
                Cell {
                    text: nats.map_or("×".to_owned(), |nats| si(nats, "")),
                    title,
                    heat: nats.map_or(0.0, |nats| axis.at(nats) / 100.0),
                    is_chosen: study.chosen.strategies[index] == *name,
                    is_excluded: pair.excluded.is_some(),
                }
            })
            .collect(),
    };
    study.groups.iter().enumerate().map(row).collect()
}

/// A matrix of correlations, by colour.
pub(crate) fn matrix(figures: &[String], values: &[Vec<Option<f64>>]) -> Vec<HeatRow> {
    let cell = |a: &str, b: &str, value: &Option<f64>| Cell {
        text: value.map_or("–".to_owned(), |value| format!("{value:+.2}")),
        title: format!("{a} and {b}"),
        heat: value.unwrap_or(0.0),
        is_chosen: false,
        is_excluded: value.is_none(),
    };
    let row = |(name, row): (&String, &Vec<Option<f64>>)| HeatRow {
        name: name.clone(),
        cells: figures.iter().zip(row).map(|(other, value)| cell(name, other, value)).collect(),
    };
    figures.iter().zip(values).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_within_the_drawing_whatever_the_values() {
        let axis = Axis::logarithmic([0.0, 1e-20, 3e-4, 0.2].into_iter());
        assert_eq!((axis.low, axis.high), (-9.0, 0.0));
        assert_eq!((axis.at(0.0), axis.at(1e-20), axis.at(1.0)), (4.0, 4.0, 96.0));
        assert!(axis.ticks("nats").iter().all(|tick| (4.0..=96.0).contains(&tick.at)));
        let axis = Axis::linear([2.0, 8.0].into_iter());
        assert_eq!((axis.at(0.0), axis.at(4.0), axis.at(8.0)), (4.0, 50.0, 96.0));
        let labels: Vec<String> = axis.ticks("J").into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["0 J", "2 J", "4 J", "6 J", "8 J"]);
        for empty in [Axis::logarithmic(std::iter::empty()), Axis::linear(std::iter::empty())] {
            assert!(empty.at(1.0).is_finite() && empty.ticks("J").len() >= 2);
        }
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let dot = |x: f64, y: f64| Dot {
            x,
            y,
            class: "uniform".to_owned(),
            label: "int8-dynamic".to_owned(),
            label_y: 0.0,
            is_left: false,
            title: String::new(),
        };
        let mut dots =
            vec![dot(50.0, 50.0), dot(51.0, 51.0), dot(52.0, 49.0), dot(97.0, 50.0), dot(2.0, 50.0)];
        place_labels(&mut dots);
        assert!(dots[3].is_left && !dots[4].is_left);
        for (index, a) in dots.iter().enumerate() {
            for b in &dots[..index] {
                assert!(
                    a.is_left != b.is_left
                        || (a.label_y - b.label_y).abs() >= 4.0
                        || (a.x - b.x).abs() > 20.0
                );
            }
        }
    }
}
