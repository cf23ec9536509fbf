//! Geometry of the drawings of the report: power over time, speed and joules per operation over arithmetic intensity.
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

/// What each module does over the operations it does per byte it moves, both logarithmic.
#[derive(Serialize)]
pub(crate) struct Roofline {
    dots: Vec<Dot>,
    /// Points of the line that no module lies beyond, `x,y x,y ...`.
    roof: Option<String>,
    /// What the line is.
    roof_label: String,
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

/// A module that does arithmetic.
struct Worker<'a> {
    row: &'a ModuleRow,
    /// Operations per byte.
    intensity: f64,
    /// Operations per second.
    speed: f64,
    energy_j: Option<f64>,
}

impl Worker<'_> {
    fn bytes(row: &ModuleRow) -> f64 {
        row.bytes_read + row.bytes_written
    }

    fn all(phase: &PhaseProfile) -> Vec<Worker<'_>> {
        let worked = phase.modules.iter().map(|row| {
            let flops = row.flops;
            let (bytes, time_s) = (Worker::bytes(row), row.timing(phase.attribution).duration_s);
            (flops > 0.0 && bytes > 0.0 && time_s > 0.0).then(|| Worker {
                row,
                intensity: flops / bytes,
                speed: flops / time_s,
                energy_j: row.energy(phase.attribution).energy_j.filter(|energy_j| *energy_j > 0.0),
            })
        });
        worked.flatten().collect()
    }

    /// The module as a dot at some place; its area is its share of the joules, of time where those are not known.
    fn dot(&self, x: f64, y: f64, all_j: f64) -> Dot {
        let Worker { row, intensity, speed, energy_j } = self;
        let share =
            energy_j.filter(|_| all_j > 0.0).map_or(row.time_share, |energy_j| energy_j / all_j).max(0.0);
        let joules = energy_j.map_or("energy unresolved".to_owned(), |energy_j| {
            format!(
                "{} ({} of the modules) · {} · {}",
                quantity::si(energy_j, "J"),
                quantity::percent(share),
                quantity::si(energy_j / row.flops, "J/FLOP"),
                quantity::si(energy_j / Worker::bytes(row), "J/B")
            )
        });
        let title = format!(
            "{}\n{} · {intensity:.2} FLOP/B · {} of the time\n{joules}",
            row.path,
            quantity::si(*speed, "FLOP/s"),
            quantity::percent(row.time_share)
        );
        Dot { x, y, size: 5.0 + 40.0 * share.sqrt(), kind: row.kind.clone(), title }
    }
}

impl Roofline {
    /// Operations per second; `None` where no module does arithmetic. The roof is the highest speed and the highest
    /// traffic that any module here reached: what the machine can do at least.
    pub(crate) fn of_speed(phase: &PhaseProfile) -> Option<Self> {
        let workers = Worker::all(phase);
        let x = Axis::around(workers.iter().map(|worker| worker.intensity))?;
        let y = Axis::around(workers.iter().map(|worker| worker.speed))?;
        let fastest = workers.iter().map(|worker| worker.speed).fold(0.0, f64::max);
        let busiest = workers.iter().map(|worker| worker.speed / worker.intensity).fold(0.0, f64::max);
        let knee = fastest / busiest;
        // From where the slope enters the drawing, over the knee, to the right.
        let enters = 10f64.powf(x.low).max(10f64.powf(y.low) / busiest);
        let corners = [(enters, busiest * enters), (knee, fastest), (10f64.powf(x.high), fastest)];
        let points = corners.map(|(at, speed)| format!("{:.2},{:.2}", x.at(at), 100.0 - y.at(speed)));
        Some(Roofline {
            roof_label: format!(
                "Line: the highest traffic ({}) and speed ({}) of any module here",
                quantity::si(busiest, "B/s"),
                quantity::si(fastest, "FLOP/s")
            ),
            roof: Some(points.join(" ")),
            ..Roofline::new(&workers, &x, &y, "FLOP/s", |worker| Some(worker.speed))
        })
    }

    /// Joules per operation; `None` where no energy is resolved.
    pub(crate) fn of_energy(phase: &PhaseProfile) -> Option<Self> {
        let workers = Worker::all(phase);
        let cost = |worker: &Worker<'_>| Some(worker.energy_j? / worker.row.flops);
        let x = Axis::around(workers.iter().map(|worker| worker.intensity))?;
        let y = Axis::around(workers.iter().filter_map(cost))?;
        Some(Roofline::new(&workers, &x, &y, "J/FLOP", cost))
    }

    fn new(
        workers: &[Worker<'_>],
        x: &Axis,
        y: &Axis,
        unit: &str,
        value: impl Fn(&Worker<'_>) -> Option<f64>,
    ) -> Self {
        let all_j = workers.iter().filter_map(|worker| worker.energy_j).sum();
        let dot = |worker: &Worker<'_>| {
            Some(worker.dot(x.at(worker.intensity), 100.0 - y.at(value(worker)?), all_j))
        };
        let y_tick =
            |(at, value)| Tick { at: 100.0 - at, label: quantity::si(value, unit).replace(".00", "") };
        Roofline {
            dots: workers.iter().filter_map(dot).collect(),
            roof: None,
            roof_label: String::new(),
            x_ticks: x.ticks().map(|(at, value)| Tick { at, label: format!("{value}") }).collect(),
            y_ticks: y.ticks().map(y_tick).collect(),
        }
    }
}

/// A logarithmic axis over whole decades, which are given by their exponents.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        decades(values).map(|(low, high)| Axis { low, high })
    }

    /// The place of a value in per cent.
    fn at(&self, value: f64) -> f64 {
        inset((value.log10() - self.low) / (self.high - self.low))
    }

    /// Places and values of the decades.
    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> {
        (0..=(self.high - self.low) as usize).map(|index| {
            let value = 10f64.powf(self.low + index as f64);
            (self.at(value), value)
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
