//! `report.html`: one page for people, without anything that has to be fetched.
//!
//! This file turns a profile into strings, `phase_view.rs` does so for its phases; `templates/report.html` puts
//! them on the page. Bars are plain boxes with widths in per cent, so that they fit any screen; only the two charts with
//! axes are drawings.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};
use crate::report::json::{ModelProfile, PhaseProfile, Profile};
use crate::report::phase_view::{Bar, PhaseView};
use crate::report::quantity;

const TEMPLATE: &str = include_str!("../../templates/report.html");

/// Renders a profile as a page of its own.
///
/// # Errors
/// [`ProfilerError::Report`].
pub fn render(profile: &Profile) -> Result<String> {
    let failed = |error: minijinja::Error| ProfilerError::Report(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report.html", TEMPLATE).map_err(failed)?;
    let page = Page::of(profile);
    environment.get_template("report.html").and_then(|template| template.render(Serde(page))).map_err(failed)
}

#[derive(Serialize)]
struct Page {
    title: String,
    is_complete: bool,
    is_estimated: bool,
    created: String,
    generator: String,
    /// Names of the phases and where on the page they are.
    contents: Vec<Fact>,
    models: Vec<ModelView>,
    sensors: Vec<SensorView>,
    environment: Vec<Fact>,
    protocol: Vec<Fact>,
}

#[derive(Serialize)]
struct ModelView {
    name: String,
    id: String,
    facts: Vec<Fact>,
    /// The phases of a model that has several, as shares by kind.
    beside: Vec<Bar>,
    kinds: Vec<String>,
    phases: Vec<PhaseView>,
}

/// A name and a value.
#[derive(Serialize)]
struct Fact {
    name: String,
    value: String,
}

fn fact(name: &str, value: impl Into<String>) -> Fact {
    Fact { name: name.to_owned(), value: value.into() }
}

#[derive(Serialize)]
struct SensorView {
    name: String,
    scope: String,
    provenance: Provenance,
    systematic: String,
    update_period: String,
    is_primary: bool,
    description: String,
    /// What the self-test says of it.
    examined: Option<String>,
}

impl Page {
    fn of(profile: &Profile) -> Self {
        let environment = &profile.environment;
        let protocol = &profile.protocol;
        let process = &profile.process;
        let machine = [
            ("processor", environment.cpu_model.clone()),
            ("architecture", Some(environment.architecture.clone())),
            ("cores", Some(environment.n_cores.to_string())),
            ("memory", environment.memory_bytes.map(|bytes| quantity::bytes(bytes as f64))),
            ("kernel", environment.kernel.clone()),
            ("governor", environment.governor.clone()),
            ("highest clock", environment.max_clock_hz.map(|clock_hz| quantity::si(clock_hz, "Hz"))),
            ("virtual machine", environment.is_virtual.map(|is| if is { "yes" } else { "no" }.to_owned())),
            ("load before", environment.load_average.map(|load| format!("{load:.2} busy cores"))),
            ("GPUs", (!environment.gpus.is_empty()).then(|| environment.gpus.join(", "))),
            ("processor time used", process.cpu_time_s.map(|time_s| quantity::si(time_s, "s"))),
            ("peak memory used", process.peak_memory_bytes.map(|bytes| quantity::bytes(bytes as f64))),
            ("time of the profile", Some(quantity::si(process.duration_s, "s"))),
        ];
        let iterations =
            protocol.iterations.map_or("as many as a window needs".to_owned(), |n| n.to_string());
        Page {
            title: profile
                .models
                .iter()
                .map(|model| model.model.name.as_str())
                .collect::<Vec<_>>()
                .join(" and "),
            is_complete: profile.is_complete,
            is_estimated: profile
                .phases()
                .any(|(_, phase)| phase.whole.energy.provenance == Provenance::Estimated),
            created: utc(profile.created_unix_s),
            generator: profile.generator.clone(),
            contents: profile
                .models
                .iter()
                .enumerate()
                .flat_map(|(index, model)| {
                    let entry = move |phase: &PhaseProfile| {
                        let name = format!("{} {}", model.model.name, phase.name);
                        fact(&name, format!("{}-{}", model_id(index), phase.name))
                    };
                    model.phases.iter().map(entry)
                })
                .collect(),
            models: profile.models.iter().enumerate().map(ModelView::of).collect(),
            sensors: profile
                .sensors
                .iter()
                .map(|sensor| SensorView {
                    name: sensor.name.clone(),
                    scope: sensor.scope.clone(),
                    provenance: sensor.provenance,
                    systematic: format!("± {:.0} %", 100.0 * sensor.systematic_relative),
                    update_period: quantity::si(sensor.update_period_s, "s"),
                    is_primary: sensor.is_primary,
                    description: sensor.description.clone(),
                    examined: profile.examination.as_ref().and_then(|all| {
                        let one = all.sensors.iter().find(|one| one.name == sensor.name)?;
                        let changes =
                            one.update_period_s.map(|s| format!(", changes every {}", quantity::si(s, "s")));
                        Some(format!(
                            "self-test of {}: integrates {}{}",
                            utc(all.created_unix_s),
                            one.verdict(),
                            changes.unwrap_or_default()
                        ))
                    }),
                })
                .collect(),
            environment: machine.into_iter().filter_map(|(name, value)| Some(fact(name, value?))).collect(),
            protocol: vec![
                fact(
                    "rounds of trials",
                    format!(
                        "at least {}, until intervals are within {} or {} have passed, at most {}",
                        protocol.trials,
                        quantity::percent(protocol.target_relative_ci),
                        quantity::si(protocol.time_limit_s, "s"),
                        protocol.max_trials
                    ),
                ),
                fact("iterations of a trial", iterations),
                fact(
                    "window of the whole",
                    format!(
                        "at least {} and {} sensor updates",
                        quantity::si(protocol.min_window_s, "s"),
                        protocol.min_updates
                    ),
                ),
                fact(
                    "extra runs of classes",
                    if protocol.regression {
                        format!(
                            "about {} of an iteration each, in windows of at least {} and {} sensor updates",
                            quantity::percent(protocol.regression_extra),
                            quantity::si(protocol.regression_min_window_s, "s"),
                            protocol.regression_min_updates
                        )
                    } else {
                        "none".to_owned()
                    },
                ),
                fact("trials of each module", protocol.replay_trials.to_string()),
                fact(
                    "window of a module",
                    format!(
                        "at least {} and {} sensor updates",
                        quantity::si(protocol.replay_min_window_s, "s"),
                        protocol.replay_min_updates
                    ),
                ),
                fact(
                    "warm-up",
                    format!(
                        "until iterations vary by less than {:.0} %, or {}",
                        100.0 * protocol.warm_up_variation,
                        quantity::si(protocol.warm_up_limit_s, "s")
                    ),
                ),
                fact(
                    "idle baseline",
                    format!(
                        "{} before, between and after the trials with the model loaded, whose mean is taken off the \
                         energy above idle{}",
                        quantity::si(protocol.idle_s, "s"),
                        profile.unloaded_power_w.map_or(String::new(), |power_w| format!(
                            "; {} before it was loaded",
                            quantity::si(power_w, "W")
                        ))
                    ),
                ),
                fact("order", format!("shuffled within each round, seed {}", protocol.seed)),
            ],
        }
    }
}

impl ModelView {
    fn of((index, profile): (usize, &ModelProfile)) -> Self {
        let model = &profile.model;
        let is_one = profile.phases.len() < 2;
        let mut kinds: Vec<String> = Vec::new();
        for row in profile.phases.iter().flat_map(|phase| &phase.kinds) {
            if !kinds.contains(&row.name) {
                kinds.push(row.name.clone());
            }
        }
        ModelView {
            name: model.name.clone(),
            id: model_id(index),
            facts: [
                fact("device", profile.device.clone()),
                fact("precision", model.precision.clone()),
                fact("parameters", quantity::si(model.n_parameters as f64, "")),
                fact("layers", model.n_layers.to_string()),
                fact("weights", quantity::bytes(model.weight_bytes as f64)),
            ]
            .into_iter()
            .chain(model.cache_format.clone().map(|format| fact("key-value cache", format)))
            .collect(),
            beside: profile.phases.iter().filter(|_| !is_one).map(Bar::of_kinds).collect(),
            kinds,
            phases: profile.phases.iter().map(PhaseView::of).collect(),
        }
    }
}

fn model_id(index: usize) -> String {
    format!("model-{}", index + 1)
}

/// A calendar time as `2026-01-31 12:34 UTC`, by the civil calendar from days since 1970 (Hinnant's algorithm).
fn utc(unix_s: f64) -> String {
    let (days, seconds) = ((unix_s / 86_400.0).floor() as i64, unix_s.rem_euclid(86_400.0) as i64);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_dates_are_right_across_leap_days_and_centuries() {
        for (unix_s, text) in [
            (0.0, "1970-01-01 00:00 UTC"),
            (951_782_399.0, "2000-02-28 23:59 UTC"),
            (951_782_400.0, "2000-02-29 00:00 UTC"),
            (1_709_210_096.0, "2024-02-29 12:34 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(unix_s), text);
        }
    }
}
