//! Numbers for people: SI prefixes, as many digits as the uncertainty leaves meaning to, uncertainty beside them.

use crate::energy::{Energy, Provenance};
use crate::metrics::Metric;
use crate::report::json::{EnergyClosure, Timing};

const PREFIXES: &[(f64, &str)] = &[
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
];

/// A value with three significant digits and an SI prefix: `12.3 mJ`.
pub fn si(value: f64, unit: &str) -> String {
    let (factor, prefix) = prefix(value);
    format!("{} {prefix}{unit}", significant(value / factor))
}

/// A value and its half width in the same prefix: `12.3 ± 0.4 mJ`.
pub fn si_with_ci(value: f64, ci95: Option<f64>, unit: &str) -> String {
    let Some(ci95) = ci95.filter(|ci95| ci95.is_finite() && *ci95 > 0.0) else { return si(value, unit) };
    let (factor, prefix) = prefix(value.abs().max(ci95));
    let (value, ci95) = (value / factor, ci95 / factor);
    // One digit of the uncertainty tells how many of the value mean anything; two when it begins with a 1.
    let magnitude = ci95.log10().floor();
    let digits = if ci95 / 10f64.powf(magnitude) < 1.95 { 1.0 - magnitude } else { -magnitude };
    let digits = digits.clamp(0.0, 3.0) as usize;
    // No negative zero.
    let value = if value.abs() < 0.5 * 0.1_f64.powi(digits as i32) { 0.0 } else { value };
    format!("{value:.digits$} ± {ci95:.digits$} {prefix}{unit}")
}

/// Energy with its random uncertainty, or the word `unresolved` with the bound there is.
pub fn energy(energy: &Energy) -> String {
    match (energy.energy_j, energy.upper_bound_j) {
        (Some(energy_j), _) => si_with_ci(energy_j, energy.ci95_j, "J"),
        (None, Some(bound_j)) => format!("unresolved (below {})", si(bound_j, "J")),
        (None, None) => Provenance::Unresolved.name().to_owned(),
    }
}

/// A duration with its random uncertainty.
pub fn timing(timing: &Timing) -> String {
    si_with_ci(timing.duration_s, timing.ci95_s, "s")
}

/// A metric with its random uncertainty.
pub fn metric(metric: &Metric) -> String {
    metric.value.map_or_else(
        || Provenance::Unresolved.name().to_owned(),
        |value| si_with_ci(value, metric.ci95, &metric.unit),
    )
}

/// A systematic term by its figure: `± 50 %`.
pub fn systematic(energy: &Energy) -> String {
    match energy.energy_j {
        Some(energy_j) if energy_j != 0.0 => {
            format!("± {} %", significant(100.0 * energy.systematic_j / energy_j.abs()))
        }
        _ => "–".to_owned(),
    }
}

/// A share of 1 in per cent: `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// What a sum is of its whole: `98.7 ± 0.4 %`.
pub fn ratio(closure: &EnergyClosure) -> String {
    let percent = |ratio: f64| si_with_ci(100.0 * ratio, closure.ratio_ci95.map(|ci95| 100.0 * ci95), "%");
    closure.ratio.map_or_else(|| Provenance::Unresolved.name().to_owned(), percent)
}

/// Bytes with decimal prefixes: `1.50 MB`; a dash where there are none.
pub fn bytes(bytes: f64) -> String {
    if bytes < 1.0 { "–".to_owned() } else { si(bytes, "B") }
}

fn prefix(value: f64) -> (f64, &'static str) {
    let size = value.abs();
    if size == 0.0 || !size.is_finite() {
        return (1.0, "");
    }
    // 999.7 would be printed as 1000: it belongs to the next prefix.
    PREFIXES.iter().copied().find(|(factor, _)| size >= 0.9995 * factor).unwrap_or((1e-12, "p"))
}

/// Three significant digits of a value between 0.001 and 1000.
fn significant(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_digits_fit_the_value() {
        for (value, text) in [
            (0.0123, "12.3 mJ"),
            (1.0, "1.00 J"),
            (999.4, "999 J"),
            (999.7, "1.00 kJ"),
            (2.5e-7, "250 nJ"),
            (0.0, "0.00 J"),
            (-0.0042, "-4.20 mJ"),
        ] {
            assert_eq!(si(value, "J"), text);
        }
    }

    #[test]
    fn the_uncertainty_sets_the_digits() {
        for (value, ci95, text) in [
            (0.012_345, 0.000_4, "12.3 ± 0.4 mJ"),
            (0.012_345, 0.000_13, "12.35 ± 0.13 mJ"),
            (123.4, 56.0, "123 ± 56 J"),
            (1.0, 3.0, "1 ± 3 J"),
            (0.5, 0.000_000_1, "500.000 ± 0.000 mJ"),
        ] {
            assert_eq!(si_with_ci(value, Some(ci95), "J"), text);
        }
        assert_eq!(si_with_ci(2.0, None, "s"), "2.00 s");
        assert_eq!(si_with_ci(2.0, Some(f64::INFINITY), "s"), "2.00 s");
    }

    #[test]
    fn what_is_unresolved_is_never_a_number() {
        let unresolved = Energy::unresolved("nvml0:energy", "GPU 0", Some(0.07));
        assert_eq!(energy(&unresolved), "unresolved (below 70.0 mJ)");
        assert_eq!(energy(&Energy { upper_bound_j: None, ..unresolved }), "unresolved");
    }
}
