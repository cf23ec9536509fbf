//! The files of a planning run.

use std::fs;
use std::path::{Path, PathBuf};

use joulewise_engine::Calibration;
use serde::Serialize;

use super::document::{Pareto, Study};
use super::plan_file;
use crate::error::{ProfilerError, Result};
use crate::report::{plan_page, replace};

/// Writes `plan.toml`, `pareto.json`, `sensitivity.json` and `plan.html`; returns their paths.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    directory: &Path,
    study: &Study,
    pareto: &Pareto,
    calibration: &Calibration,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).map_err(ProfilerError::io(directory))?;
    Ok(vec![
        replace(directory, "plan.toml", plan_file::write(study, calibration).as_bytes())?,
        replace(directory, "pareto.json", &json(pareto)?)?,
        replace(directory, "sensitivity.json", &json(study)?)?,
        replace(directory, "plan.html", plan_page::render(study, pareto)?.as_bytes())?,
    ])
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|error| ProfilerError::Report(error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}
