//! `joulewise sensors`: what can be measured here, and how well?

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_profiler::report::quantity;
use joulewise_profiler::sensor::examination::{Examination, Examined};
use joulewise_profiler::sensor::{SearchPaths, SensorInfo, SensorKind, discover};
use serde::Serialize;

use crate::options::Device;
use crate::{Verdict, output, self_test};

/// List the energy sensors of this machine.
#[derive(Args)]
pub(crate) struct Sensors {
    /// Watch each sensor, hold sensors of one scope against each other at rest and under load, and find out by square
    /// waves whether counters integrate continuously. About a minute; the result is attached to later reports.
    #[arg(long)]
    self_test: bool,
    /// The device whose load the self-test switches.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// A further file for the result of the self-test.
    #[arg(long, value_name = "FILE", requires = "self_test")]
    out: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    name: String,
    kind: &'static str,
    scope: String,
    provenance: &'static str,
    update_period_s: f64,
    systematic_relative: f64,
    counts_in_total: bool,
    description: String,
}

#[derive(Serialize)]
struct Listing {
    sensors: Vec<Found>,
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    self_test: Option<Examination>,
}

impl Sensors {
    pub(crate) fn run(self) -> Result<Verdict> {
        let discovery = discover(&SearchPaths::default());
        let mut problems: Vec<String> = discovery.problems.iter().map(ToString::to_string).collect();
        let sensors: Vec<Found> = discovery.sensors.iter().map(|sensor| Found::from(sensor.info())).collect();
        let mut examination = None;
        if self.self_test {
            let result = self_test::run(discovery.sensors, self.device, &mut problems)?;
            for path in self_test::kept_at().iter().chain(&self.out) {
                self_test::keep(&result, path)?;
            }
            examination = Some(result);
        }
        if self.json {
            output::json(&Listing { sensors, problems, self_test: examination })?;
            return Ok(Verdict::Passed);
        }
        let rows = sensors.iter().map(Found::row);
        output::line(output::table(
            &["sensor", "measures", "kind", "updates", "systematic", "provenance"],
            rows,
        ))?;
        for found in &sensors {
            output::line(format!("{}: {}", found.name, found.description))?;
        }
        for problem in problems {
            output::line(format!("closed: {problem}"))?;
        }
        if let Some(examination) = &examination {
            show(examination)?;
            for path in self_test::kept_at().iter().chain(&self.out) {
                output::line(format!("wrote {}", path.display()))?;
            }
        }
        Ok(Verdict::Passed)
    }
}

fn show(examination: &Examination) -> Result<()> {
    let watt = |power_w: Option<f64>| power_w.map_or("–".to_owned(), |power_w| quantity::si(power_w, "W"));
    let second = |time_s: Option<f64>| time_s.map_or("–".to_owned(), |time_s| quantity::si(time_s, "s"));
    output::line(format!("\nself-test, load: {}", examination.load))?;
    let rows = examination.sensors.iter().map(|sensor| {
        vec![
            sensor.name.clone(),
            second(sensor.update_period_s),
            second(Some(sensor.latency_s)),
            sensor.smallest_step.map_or("–".to_owned(), |step| {
                quantity::si(step, if sensor.kind == "power" { "W" } else { "J" })
            }),
            watt(sensor.idle_power_w),
            watt(sensor.load_power_w),
            sensor.verdict().to_owned(),
        ]
    });
    let header =
        ["sensor", "changes every", "a reading takes", "step", "at rest", "under load", "integrates"];
    output::line(output::table(&header, rows))?;
    output::line("mean power under a square wave (load on for half of each period), by phase")?;
    let rows = examination.sensors.iter().flat_map(|sensor| waves(sensor).into_iter());
    output::line(output::table(&["sensor", "period", "power by phase", "scatter"], rows))?;
    for sensor in &examination.sensors {
        for agreement in &sensor.agreement {
            let ratio = |ratio: Option<f64>| ratio.map_or("unresolved".to_owned(), quantity::percent);
            output::line(format!(
                "{} reads {} of {} at rest, {} under load",
                sensor.name,
                ratio(agreement.idle_ratio),
                agreement.with,
                ratio(agreement.load_ratio)
            ))?;
        }
    }
    Ok(())
}

fn waves(sensor: &Examined) -> Vec<Vec<String>> {
    let row = |wave: &joulewise_profiler::sensor::examination::Wave| {
        let powers: Vec<String> = wave
            .powers_w
            .iter()
            .map(|power_w| power_w.map_or("–".to_owned(), |power_w| format!("{power_w:.1}")))
            .collect();
        vec![
            sensor.name.clone(),
            quantity::si(wave.period_s, "s"),
            format!("{} W", powers.join(" ")),
            wave.scatter.map_or("–".to_owned(), quantity::percent),
        ]
    };
    sensor.waves.iter().map(row).collect()
}

impl From<&SensorInfo> for Found {
    fn from(info: &SensorInfo) -> Self {
        Found {
            name: info.name.clone(),
            kind: match info.kind {
                SensorKind::EnergyCounter => "energy counter",
                SensorKind::Power => "power",
            },
            scope: info.scope.to_string(),
            provenance: info.provenance.name(),
            update_period_s: info.update_period_s,
            systematic_relative: info.systematic_relative,
            counts_in_total: info.counts_in_total,
            description: info.description.clone(),
        }
    }
}

impl Found {
    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.scope.clone(),
            self.kind.to_owned(),
            format!("{:.1} ms", 1e3 * self.update_period_s),
            format!("± {:.0} %", 100.0 * self.systematic_relative),
            self.provenance.to_owned(),
        ]
    }
}
