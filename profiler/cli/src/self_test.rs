//! The self-test of the sensors: a load that can be switched, and the file in which the result is kept for later reports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use joulewise_engine::{ModuleId, Session, Strategy, TokenBatch};
use joulewise_models::{ModelSpec, load, synthetic};
use joulewise_profiler::clock;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::sensor::Sensor;
use joulewise_profiler::sensor::examination::{Examination, examine};
use joulewise_profiler::sensor::self_test::self_test;

use crate::options::{Device, RunOptions};
use crate::output;
use crate::session::{Chosen, place};

/// How long a sensor is watched.
const WATCH_S: f64 = 2.0;
/// How long the load runs between two looks at the clock: a twentieth of the shortest wave's half.
const LOAD_GRAIN_S: f64 = 0.5e-3;

/// Watches all sensors and puts them to the square-wave test under a load on `device`.
///
/// # Errors
/// When the device that was asked for cannot be had.
pub(crate) fn run(
    mut sensors: Vec<Box<dyn Sensor>>,
    device: Device,
    problems: &mut Vec<String>,
) -> Result<Examination> {
    let bar = output::progress("watch sensors", sensors.len() as u64);
    let mut watched = Vec::new();
    for sensor in &mut sensors {
        match self_test(sensor.as_mut(), WATCH_S) {
            Ok(test) => watched.push(Some(test)),
            Err(problem) => {
                problems.push(problem.to_string());
                watched.push(None);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut options = RunOptions {
        device,
        strategy: Strategy::Fp32,
        plan: None,
        calibrate: None,
        threads: None,
        kv_cache: None,
        context: None,
    };
    let chosen = Chosen::new(&options)?;
    // Enough work to load the device, in runs that are short beside the shortest wave.
    let (model, batch, tokens) = match chosen.metered {
        MeteredDevice::Cpu => ("demo:distilbert", 1, 16),
        MeteredDevice::Gpu { .. } => ("synth:distilbert-base", 16, 128),
    };
    if let MeteredDevice::Gpu { .. } = chosen.metered {
        options.strategy = Strategy::Fp16;
    }
    let mut opened = place(load(&ModelSpec::parse(model)?)?, &options, &chosen)?;
    let ids = synthetic::prompt(opened.session.graph().vocab_size, batch * tokens);
    opened.session.forward(&TokenBatch::dense(ids, batch)?)?;
    let name = format!("{model}, {batch} x {tokens} tokens, on {}", opened.session.device());
    let meter = EnergyMeter::start(sensors);
    let bar = output::progress("square waves", 0);
    let mut failed = None;
    let examination = examine(
        &meter,
        &watched,
        &name,
        &mut |until_s| failed = keep_busy(&mut opened.session, until_s).err(),
        &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        },
    );
    bar.finish_and_clear();
    failed.map_or(Ok(examination), Err)
}

fn keep_busy(session: &mut Session, until_s: f64) -> Result<()> {
    let mut whole = session.replay(ModuleId::ROOT)?;
    let mut runs = 1;
    while clock::now_s() < until_s {
        let run_s = whole.run(runs)? / runs as f64;
        runs = ((LOAD_GRAIN_S / run_s) as usize).max(1);
    }
    Ok(())
}

/// Where the last result is kept for later reports; `None` without a home.
pub(crate) fn kept_at() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = variable("JOULEWISE_CACHE").or_else(|| {
        let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(base.join("joulewise"))
    });
    Some(directory?.join("sensor.json"))
}

/// Writes a result to a file.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn keep(examination: &Examination, path: &Path) -> Result<()> {
    let written = || format!("cannot write {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(written)?;
    }
    fs::write(path, serde_json::to_string_pretty(examination)?).with_context(written)
}

/// The last result on this machine, if all of its sensors are among those that are here now.
pub(crate) fn last(meter: &EnergyMeter) -> Option<Examination> {
    let text = fs::read_to_string(kept_at()?).ok()?;
    let examination: Examination = serde_json::from_str(&text).ok()?;
    let is_here = |name: &str| meter.sensors().iter().any(|info| info.name == name);
    examination.sensors.iter().all(|sensor| is_here(&sensor.name)).then_some(examination)
}
