//! Temperatures finer than a thermometer tells them.
//!
//! NVML tells whole kelvins, which are 0.29 K out, root mean square. A card that has been at work for some minutes wanders
//! by little more, and what a kelvin does, told by such readings, comes out at half of it: errors of a regressor, unlike
//! those of the response, do not average out (Fuller, Measurement Error Models, 1987, section 1.1). But a chip's
//! temperature follows within a fraction of a second from what runs, on top of a heat sink that takes a minute. So it is
//! taken for the sum of what all trials have in common that ran the same, and of a curve through the trials before and
//! behind (locally weighted lines: Cleveland, Journal of the American Statistical Association 74, 1979). What a reading
//! lies beside that by counts to the degree that it is more than rounding (regression calibration: Carroll et al.,
//! Measurement Error in Nonlinear Models, 2006, chapter 4).

use crate::experiment::{Target, Trial};

/// Trials that the curve follows, half of them before: some twenty seconds.
const NEIGHBOURS: usize = 24;

/// How often the curve and what ran the same are taken in turns: what one has taken is out of the other's way, and what is
/// left to move falls with each turn.
const TURNS: usize = 30;

/// Variance of what rounding to whole kelvins puts a reading out by, K^2.
const ROUNDING: f64 = 1.0 / 12.0;

/// A reading, with the first that ran the same.
struct Reading {
    trial: usize,
    equal: usize,
    time_s: f64,
    value_c: f64,
}

/// Temperature of each trial; none where there is no reading.
pub(super) fn temperatures_c(trials: &[Trial]) -> Vec<Option<f64>> {
    let mut temperatures: Vec<Option<f64>> = trials.iter().map(|trial| trial.temperature_c).collect();
    let readings = readings(trials);
    if readings.iter().all(|reading| reading.value_c.fract() == 0.0) {
        for (reading, value_c) in readings.iter().zip(calibrated(&readings)) {
            temperatures[reading.trial] = Some(value_c);
        }
    }
    temperatures
}

/// Of trials that run the whole program, extra sweeps or none.
fn readings(trials: &[Trial]) -> Vec<Reading> {
    let is_program =
        |trial: &Trial| matches!(trial.target, Target::Whole | Target::Repeated | Target::Mixture);
    let mut readings: Vec<Reading> = Vec::new();
    for (index, trial) in trials.iter().enumerate().filter(|(_, trial)| is_program(trial)) {
        let Some(value_c) = trial.temperature_c else { continue };
        let equal = readings.iter().position(|earlier| trials[earlier.trial].extra == trial.extra);
        let equal = equal.unwrap_or(readings.len());
        readings.push(Reading { trial: index, equal, time_s: trial.start_s + trial.duration_s, value_c });
    }
    readings
}

/// What readings say when rounding is not taken for temperature.
fn calibrated(readings: &[Reading]) -> Vec<f64> {
    let places = 0..readings.len();
    let lines: Vec<Vec<(usize, f64)>> = places.clone().map(|place| line_through(readings, place)).collect();
    let (mut curve, mut of_equals, mut n_equals) = (vec![0.0; readings.len()], Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let beside_curve = |place: usize| readings[place].value_c - curve[place];
        (of_equals, n_equals) =
            means_of_equals(readings, &places.clone().map(beside_curve).collect::<Vec<_>>());
        let beside_equals = |place: usize| readings[place].value_c - of_equals[place];
        let at =
            |line: &Vec<(usize, f64)>| line.iter().map(|(place, share)| share * beside_equals(*place)).sum();
        curve = lines.iter().map(at).collect();
    }
    let fitted: Vec<f64> = curve.iter().zip(&of_equals).map(|(curve, mean)| curve + mean).collect();
    let beside: Vec<f64> = readings.iter().zip(&fitted).map(|(reading, fit)| reading.value_c - fit).collect();
    // What ran only once lies where it was read and tells nothing.
    let own_share = |place: usize| {
        lines[place].iter().filter(|(other, _)| *other == place).map(|(_, share)| share).sum::<f64>()
    };
    let freedom: f64 = places.map(|place| (1.0 - 1.0 / n_equals[place] - own_share(place)).max(0.0)).sum();
    let variance = beside.iter().map(|beside| beside * beside).sum::<f64>() / freedom;
    let real = if variance > ROUNDING { 1.0 - ROUNDING / variance } else { 0.0 };
    fitted.iter().zip(&beside).map(|(fit, beside)| fit + real * beside).collect()
}

/// For each reading the mean of the values of those that ran the same, and how many these are.
fn means_of_equals(readings: &[Reading], values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![(0.0, 0.0); readings.len()];
    for (reading, value) in readings.iter().zip(values) {
        sums[reading.equal] = (sums[reading.equal].0 + value, sums[reading.equal].1 + 1.0);
    }
    readings
        .iter()
        .map(|reading| (sums[reading.equal].0 / sums[reading.equal].1, sums[reading.equal].1))
        .unzip()
}

/// The line through the neighbours of a reading, at its time: each of them with its share of the value there.
fn line_through(readings: &[Reading], place: usize) -> Vec<(usize, f64)> {
    let distance_s = |other: usize| readings[other].time_s - readings[place].time_s;
    // They are in the order of time.
    let mut nearest: Vec<usize> =
        (place.saturating_sub(NEIGHBOURS)..readings.len().min(place + NEIGHBOURS)).collect();
    nearest.sort_by(|&a, &b| distance_s(a).abs().total_cmp(&distance_s(b).abs()));
    nearest.truncate(NEIGHBOURS);
    let farthest_s = nearest.last().map_or(0.0, |&last| distance_s(last).abs()).max(f64::MIN_POSITIVE);
    // Cleveland's weights: none at the farthest.
    let weight = |other: usize| (1.0 - (distance_s(other).abs() / farthest_s).powi(3)).powi(3);
    let sum: f64 = nearest.iter().map(|&other| weight(other)).sum();
    let mean_s = nearest.iter().map(|&other| weight(other) * distance_s(other)).sum::<f64>() / sum;
    let spread: f64 = nearest.iter().map(|&other| weight(other) * (distance_s(other) - mean_s).powi(2)).sum();
    // At its own time, which is distance 0.
    let slope =
        |other: usize| if spread > 0.0 { -mean_s * (distance_s(other) - mean_s) / spread } else { 0.0 };
    nearest.iter().map(|&other| (other, weight(other) * (1.0 / sum + slope(other)))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;
    use crate::experiment::Extra;

    /// Two hundred trials of one second, of twenty things to run, up to 3 K apart: a heat sink at some temperature at each
    /// time, and `fast_k` at most by which each trial differs for itself. Temperatures, and trials that tell them rounded.
    fn trials(heat_sink_c: impl Fn(f64) -> f64, fast_k: f64, seed: u64) -> (Vec<f64>, Vec<Trial>) {
        let mut random = Pcg64::seed_from_u64(seed);
        let of_class: Vec<f64> = (0..20).map(|_| random.random_range(0.0..3.0)).collect();
        let trial = |index: usize| {
            let class = random.random_range(0..of_class.len());
            let start_s = index as f64;
            let fast_k = fast_k * random.random_range(-1.0..1.0);
            let temperature_c = heat_sink_c(start_s) + of_class[class] + fast_k;
            let trial = Trial {
                target: Target::Repeated,
                round: index / 20,
                start_s,
                duration_s: 0.8,
                run_s: 0.8,
                iterations: 1,
                extra: vec![Extra { class, sweeps: 1 }],
                cpu_time_s: None,
                part_s: Vec::new(),
                seen: None,
                flags: Vec::new(),
                temperature_c: Some(temperature_c.round()),
                clock_hz: None,
            };
            (temperature_c, trial)
        };
        (0..200).map(trial).unzip()
    }

    fn warming(time_s: f64) -> f64 {
        58.3 - 8.0 * (-time_s / 60.0).exp()
    }

    const RUNS: u64 = 50;

    /// How far temperatures and readings are out.
    fn errors(fast_k: f64) -> (f64, f64) {
        let root_mean_square = |values: &[f64]| {
            (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
        };
        let (mut told, mut read) = (Vec::new(), Vec::new());
        for seed in 0..RUNS {
            let (truth, trials) = trials(warming, fast_k, seed);
            let temperatures = temperatures_c(&trials);
            told.extend(truth.iter().zip(&temperatures).map(|(truth, told)| told.unwrap() - truth));
            read.extend(truth.iter().zip(&trials).map(|(truth, trial)| trial.temperature_c.unwrap() - truth));
        }
        (root_mean_square(&told), root_mean_square(&read))
    }

    #[test]
    fn temperatures_are_told_finer_than_they_are_read() {
        // Ten that ran the same and, by their weights, thirteen neighbours: sqrt((1/10 + 1/13) / 12) = 0.12, and a little
        // for the curve's bend.
        let (told, read) = errors(0.0);
        assert!(told < 0.14 && read > 0.28, "{told} {read}");
        // What each trial differs by for itself, some 1.7 K, is no rounding.
        let (told, read) = errors(3.0);
        assert!(told < read, "{told} {read}");
    }

    #[test]
    fn what_a_kelvin_does_is_told_in_full_by_a_device_that_is_warm() {
        // What a response of 1 for each kelvin comes out at, told by trials that ran the same.
        let effect = |temperatures: &[f64], truth: &[f64], trials: &[Trial]| {
            let (mut both, mut squares) = (0.0, 0.0);
            for (index, trial) in trials.iter().enumerate() {
                let equals: Vec<usize> =
                    (0..trials.len()).filter(|&other| trials[other].extra == trial.extra).collect();
                let mean =
                    |values: &[f64]| equals.iter().map(|&i| values[i]).sum::<f64>() / equals.len() as f64;
                let distance = temperatures[index] - mean(temperatures);
                both += distance * (truth[index] - mean(truth));
                squares += distance * distance;
            }
            both / squares
        };
        let (mut of_told, mut of_read) = (0.0, 0.0);
        for seed in 0..RUNS {
            // Wanders by 0.35 K, root mean square.
            let (truth, trials) = trials(|time_s| 61.2 + 0.5 * (time_s / 20.0).sin(), 0.0, seed);
            let told: Vec<f64> = temperatures_c(&trials).into_iter().map(Option::unwrap).collect();
            let read: Vec<f64> = trials.iter().map(|trial| trial.temperature_c.unwrap()).collect();
            of_told += effect(&told, &truth, &trials) / RUNS as f64;
            of_read += effect(&read, &truth, &trials) / RUNS as f64;
        }
        // Rounding makes 0.35^2 / (0.35^2 + 1/12) = 0.6 of it, what is left of its variance, a sixth, 0.9 at least.
        assert!((of_read - 0.6).abs() < 0.05 && (0.9..1.1).contains(&of_told), "{of_told} {of_read}");
    }

    #[test]
    fn what_is_told_finely_or_not_at_all_stays() {
        let (_, mut trials) = trials(warming, 0.0, 1);
        trials[3].temperature_c = None;
        let told = temperatures_c(&trials);
        assert!((0..trials.len()).all(|index| told[index].is_none() == (index == 3)));
        assert_ne!(told[4], trials[4].temperature_c);
        trials[5].temperature_c = Some(55.25);
        assert!(trials.iter().zip(temperatures_c(&trials)).all(|(trial, told)| trial.temperature_c == told));
        // Rests tell of themselves.
        trials[5].temperature_c = Some(55.0);
        trials[6].target = Target::Idle;
        assert_eq!(temperatures_c(&trials)[6], trials[6].temperature_c);
        assert_eq!(temperatures_c(&[]), []);
    }
}
