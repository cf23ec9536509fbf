//! Small files of the kernel: one number or one word each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{ProfilerError, Result};

/// The trimmed text of a file.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// The number in a file of the sensor `sensor`; `remedy` is told to a user who may not read it.
pub(crate) fn number(sensor: &str, path: &Path, remedy: &str) -> Result<f64> {
    let text = text(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ProfilerError::SensorPermission {
            sensor: sensor.to_owned(),
            path: path.to_owned(),
            remedy: remedy.to_owned(),
        },
        _ => ProfilerError::sensor(sensor)(format!("{}: {source}", path.display())),
    })?;
    text.parse().map_err(|_| {
        ProfilerError::sensor(sensor)(format!("{} holds `{text}`, not a number", path.display()))
    })
}

/// The entries of a directory whose names fit, sorted; none where the directory is missing.
pub(crate) fn entries(directory: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&fits))
        .collect();
    paths.sort();
    paths
}
