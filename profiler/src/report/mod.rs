//! What a profile looks like to others: JSON for programs, CSV for tables, HTML for people, a trace for Perfetto.

mod chart;
pub mod comparison;
pub mod csv;
pub mod folded;
pub mod html;
pub mod json;
pub mod markdown;
mod parts_view;
mod phase;
mod phase_view;
mod plan_chart;
pub mod plan_page;
pub mod plan_table;
pub mod quantity;
pub mod study;
pub mod table;
pub mod trace;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{ProfilerError, Result};
use json::Profile;

/// Names of the files that [`write()`] leaves in a directory.
pub const FILES: [&str; 8] = [
    "profile.json",
    "layers.csv",
    "trace.json",
    "report.html",
    "windows.csv",
    "samples.csv",
    "tables.md",
    "energy.folded",
];

/// Writes all files of a profile into a directory, which is made if it is missing; returns their paths.
///
/// Each file appears under its name only when it is whole, so that an interruption leaves the last good one.
///
/// # Errors
/// When a file cannot be written.
pub fn write(directory: &Path, profile: &Profile) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).map_err(ProfilerError::io(directory))?;
    let mut contents = vec![Vec::new(); FILES.len()];
    profile.write_json(&mut contents[0]).map_err(|error| ProfilerError::Report(error.to_string()))?;
    csv::write(profile, &mut contents[1])?;
    trace::write(profile, &mut contents[2])?;
    contents[3] = html::render(profile)?.into_bytes();
    csv::write_windows(profile, &mut contents[4])?;
    csv::write_samples(profile, &mut contents[5])?;
    contents[6] = markdown::render(profile).into_bytes();
    folded::write(profile, &mut contents[7])?;
    FILES.iter().zip(contents).map(|(name, content)| replace(directory, name, &content)).collect()
}

/// Writes a file beside its place and moves it there.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let (path, unfinished) = (directory.join(name), directory.join(format!(".{name}.unfinished")));
    fs::write(&unfinished, content).map_err(ProfilerError::io(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(ProfilerError::io(&path))?;
    Ok(path)
}
