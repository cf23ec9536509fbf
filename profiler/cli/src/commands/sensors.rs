//! `joulewise sensors`: what can be measured here, and how well?

use anyhow::Result;
use clap::Args;
use joulewise_profiler::sensor::self_test::{SelfTest, self_test};
use joulewise_profiler::sensor::{SearchPaths, SensorInfo, SensorKind, discover};
use serde::Serialize;

use crate::{Verdict, output};

/// How long a sensor is watched by `--self-test`.
const WATCH_S: f64 = 2.0;

/// List the energy sensors of this machine.
#[derive(Args)]
pub(crate) struct Sensors {
    /// Watch each sensor for two seconds: update period, latency, smallest step, idle power.
    #[arg(long)]
    self_test: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    self_test: Option<Watched>,
}

#[derive(Serialize)]
struct Watched {
    readings: usize,
    changes: usize,
    update_period_s: Option<f64>,
    latency_s: f64,
    smallest_step: Option<f64>,
    power_w: Option<f64>,
}

#[derive(Serialize)]
struct Listing {
    sensors: Vec<Found>,
    problems: Vec<String>,
}

impl Sensors {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut discovery = discover(&SearchPaths::default());
        let mut problems: Vec<String> = discovery.problems.iter().map(ToString::to_string).collect();
        let bar = output::progress("watch sensors", discovery.sensors.len() as u64);
        let mut sensors = Vec::new();
        for sensor in &mut discovery.sensors {
            let mut found = Found::from(sensor.info());
            if self.self_test {
                match self_test(sensor.as_mut(), WATCH_S) {
                    Ok(watched) => found.self_test = Some(watched.into()),
                    Err(problem) => problems.push(problem.to_string()),
                }
            }
            sensors.push(found);
            bar.inc(1);
        }
        bar.finish_and_clear();
        if self.json {
            output::json(&Listing { sensors, problems })?;
            return Ok(Verdict::Passed);
        }
        let rows = sensors.iter().map(Found::row);
        output::line(output::table(
            &["sensor", "measures", "kind", "updates", "systematic", "provenance"],
            rows,
        ))?;
        for found in &sensors {
            output::line(format!("{}: {}", found.name, found.description))?;
            if let Some(watched) = &found.self_test {
                output::line(format!("  {}", watched.sentence(found.kind)))?;
            }
        }
        for problem in problems {
            output::line(format!("closed: {problem}"))?;
        }
        Ok(Verdict::Passed)
    }
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
            self_test: None,
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

impl From<SelfTest> for Watched {
    fn from(test: SelfTest) -> Self {
        Watched {
            readings: test.n_readings,
            changes: test.n_changes,
            update_period_s: test.update_period_s,
            latency_s: test.latency_s,
            smallest_step: test.smallest_step,
            power_w: test.power_w,
        }
    }
}

impl Watched {
    fn sentence(&self, kind: &str) -> String {
        let unit = if kind == "power" { "W" } else { "J" };
        let period =
            self.update_period_s.map_or("no two changes".to_owned(), |s| format!("every {:.1} ms", 1e3 * s));
        let step =
            self.smallest_step.map_or("no step".to_owned(), |step| format!("steps of {step:.3e} {unit}"));
        let power = self.power_w.map_or("no power".to_owned(), |power| format!("{power:.2} W"));
        let latency = 1e6 * self.latency_s;
        format!(
            "watched for {WATCH_S} s: changes {period}, {step}, {latency:.0} us a reading, {power} meanwhile"
        )
    }
}
