//! Geometry of the two drawings of the report: power over time, and speed over arithmetic intensity.
//!
//! Coordinates are in per cent of the drawing, which the page stretches; labels are text of the page beside it.

use serde::Serialize;

use crate::report::json::{ModuleRow, PhaseProfile};
use crate::report::quantity;

/// Power over the time of the trials.
#[derive(Serialize)]
pub(crate) struct PowerChart {
    /// Points of the line, `x,y x,y ...`.
    line: String,
    /// Stretches of the windows of the whole program: begin, length, name.
    bands: Vec<(f64, f64, String)>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
}

/// A labelled place on an axis, in per cent.
#[derive(Serialize)]
pub(crate) struct Tick {
    at: f64,
    label: String,
}

impl PowerChart {
    /// `None` where there are too few samples to draw.
    pub(crate) fn of(phase: &PhaseProfile) -> Option<Self> {
        let samples = &phase.power_samples;
        if samples.len() < 8 {
            return None;
        }
        let end_s = phase.windows.iter().map(|w| w.start_s + w.duration_s).fold(0.0, f64::max);
        let most_w = 1.05 * samples.iter().map(|sample| sample.power_w).fold(0.0, f64::max);
        let end_s = end_s.max(samples.last()?.time_s);
        let points: Vec<String> = samples
            .iter()
            .map(|sample| {
                let (x, y) = (100.0 * sample.time_s / end_s, 100.0 - 100.0 * sample.power_w / most_w);
                format!("{x:.2},{y:.2}")
            })
            .collect();
        let bands = phase
            .windows
            .iter()
            .filter(|window| !["replay", "rotation"].contains(&window.target.as_str()))
            .map(|window| {
                (100.0 * window.start_s / end_s, 100.0 * window.duration_s / end_s, window.target.clone())
            });
        let y_ticks = round_steps(most_w)
            .map(|power_w| Tick { at: 100.0 - 100.0 * power_w / most_w, label: quantity::si(power_w, "W") });
        let x_ticks = round_steps(end_s)
            .map(|time_s| Tick { at: 100.0 * time_s / end_s, label: quantity::si(time_s, "s") });
        Some(PowerChart {
            line: points.join(" "),
            bands: bands.collect(),
            x_ticks: x_ticks.collect(),
            y_ticks: y_ticks.collect(),
        })
    }
}

/// Ticks of an axis that ends at `longest_j` joules; none where nothing is resolved.
pub(crate) fn energy_axis(longest_j: f64) -> Vec<Tick> {
    let ticks = round_steps(longest_j).filter(|_| longest_j > 0.0);
    ticks
        .map(|energy_j| Tick { at: 100.0 * energy_j / longest_j, label: quantity::si(energy_j, "J") })
        .collect()
}

/// Speed of each module over the operations it does per byte it moves, both logarithmic.
#[derive(Serialize)]
pub(crate) struct Roofline {
    dots: Vec<Dot>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
}

#[derive(Serialize)]
struct Dot {
    x: f64,
    y: f64,
    /// Diameter in pixels, from the share of the joules.
    size: f64,
    kind: String,
    title: String,
}

impl Roofline {
    /// `None` where no module does arithmetic.
    pub(crate) fn of(phase: &PhaseProfile) -> Option<Self> {
        let modules: Vec<(f64, f64, &_)> = phase
            .modules
            .iter()
            .filter_map(|row| {
                let (bytes, time_s) =
                    (row.bytes_read + row.bytes_written, row.timing(phase.attribution).duration_s);
                (row.flops > 0.0 && bytes > 0.0 && time_s > 0.0)
                    .then(|| (row.flops / bytes, row.flops / time_s, row))
            })
            .collect();
        let (x_low, x_high) = decades(modules.iter().map(|module| module.0))?;
        let (y_low, y_high) = decades(modules.iter().map(|module| module.1))?;
        let at = |value: f64, low: f64, high: f64| inset((value.log10() - low) / (high - low));
        let energy_j = |row: &ModuleRow| row.energy(phase.attribution).energy_j.filter(|j| *j > 0.0);
        let all_j: f64 = modules.iter().filter_map(|(.., row)| energy_j(row)).sum();
        let dots = modules.iter().map(|(intensity, speed, row)| {
            // Joules where they are known, else time.
            let energy = energy_j(row);
            let share = energy.filter(|_| all_j > 0.0).map_or(row.time_share, |energy_j| energy_j / all_j);
            let joules = energy.map_or("energy unresolved".to_owned(), |energy_j| {
                format!(
                    "{} ({} of the modules) · {} · {}",
                    quantity::si(energy_j, "J"),
                    quantity::percent(share),
                    quantity::si(energy_j / row.flops, "J/FLOP"),
                    quantity::si(energy_j / (row.bytes_read + row.bytes_written), "J/B")
                )
            });
            Dot {
                x: at(*intensity, x_low, x_high),
                y: 100.0 - at(*speed, y_low, y_high),
                size: 5.0 + 40.0 * share.max(0.0).sqrt(),
                kind: row.kind.clone(),
                title: format!(
                    "{}\n{} · {intensity:.2} FLOP/B · {} of the time\n{joules}",
                    row.path,
                    quantity::si(*speed, "FLOP/s"),
                    quantity::percent(row.time_share)
                ),
            }
        });
        let ticks = |low: f64, high: f64, label: &dyn Fn(f64) -> String, flip: bool| -> Vec<Tick> {
            let mut ticks = Vec::new();
            let mut exponent = low;
            while exponent <= high {
                let place = inset((exponent - low) / (high - low));
                let value = 10f64.powf(exponent);
                ticks.push(Tick { at: if flip { 100.0 - place } else { place }, label: label(value) });
                exponent += 1.0;
            }
            ticks
        };
        Some(Roofline {
            dots: dots.collect(),
            x_ticks: ticks(x_low, x_high, &|value| format!("{value}"), false),
            y_ticks: ticks(y_low, y_high, &|value| quantity::si(value, "FLOP/s").replace(".00", ""), true),
        })
    }
}

/// A share of an axis in per cent, with room for half a dot at both ends.
fn inset(share: f64) -> f64 {
    5.0 + 90.0 * share
}

/// The whole decades around some values, as exponents.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let low = values.clone().reduce(f64::min)?.log10().floor();
    let high = values.reduce(f64::max)?.log10().ceil();
    Some((low, high.max(low + 1.0)))
}

/// Multiples of 1, 2 or 5 times a power of ten from 0 to `most`, three to seven of them.
fn round_steps(most: f64) -> impl Iterator<Item = f64> {
    // An axis without length has its origin and no more.
    let most = if most > 0.0 { most } else { f64::MIN_POSITIVE.sqrt() };
    let magnitude = 10f64.powf((most / 3.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|factor| factor * magnitude).into_iter().find(|step| most / step >= 3.0);
    let step = step.unwrap_or(magnitude);
    (0..=(most / step).floor() as usize).map(move |count| count as f64 * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_a_few_round_steps() {
        assert_eq!(round_steps(7.9).collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(round_steps(31.0).collect::<Vec<_>>(), [0.0, 10.0, 20.0, 30.0]);
        for exponent in -60..60 {
            let n = round_steps(1.37f64.powi(exponent)).count();
            assert!((3..=8).contains(&n), "{n} steps");
        }
    }

    #[test]
    fn decades_enclose_their_values() {
        assert_eq!(decades([3.0, 450.0].into_iter()), Some((0.0, 3.0)));
        assert_eq!(decades([10.0].into_iter()), Some((1.0, 2.0)));
        assert_eq!(decades(std::iter::empty()), None);
    }
}
