//! What people and machines get to see: tables and JSON on standard output, everything else on standard error.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table, TableComponent};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// One line on standard output.
///
/// # Errors
/// When nobody reads it any more.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    writeln!(io::stdout(), "{}", text.as_ref()).context("cannot write to standard output")
}

/// A piece of a line, shown at once.
///
/// # Errors
/// When nobody reads it any more.
pub(crate) fn piece(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// A value as JSON, pretty for a person who looks at it, one document for a machine that parses it.
///
/// # Errors
/// When nobody reads it any more.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// A remark that is not part of the result.
pub(crate) fn note(text: impl AsRef<str>) {
    // Standard error may be closed; there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// An error with its causes, in one sentence. A cause that the sentence before already ends with is not repeated.
pub(crate) fn complain(error: &anyhow::Error) {
    note(format!("error: {}", sentence(error)));
}

fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if sentence.is_empty() {
            sentence = text;
        } else if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
    }
    sentence.replace('\n', " ")
}

/// Whether the reader of standard output has gone away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(broken)
}

/// A table: the first column to the left, figures to the right. Without a header it is a list of properties.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    if !header.is_empty() {
        table.set_header(header.iter().enumerate().map(|(i, text)| cell(i, text)));
    }
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(i, text)| cell(i, text)).collect::<Vec<_>>());
    }
    table.to_string()
}

fn cell(column: usize, text: &str) -> Cell {
    Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
}

/// A quantity with three significant digits and the prefix that suits it: `12.3 mJ`.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 8] =
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];
    let magnitude = value.abs();
    if magnitude == 0.0 || !magnitude.is_finite() {
        return format!("{value} {unit}");
    }
    // Rounding to three digits may carry into the next prefix: 999.9 m is 1.00.
    let fits = |(scale, _): &&(f64, &str)| magnitude >= scale * 0.9995;
    let (scale, prefix) = PREFIXES.iter().find(fits).unwrap_or(&PREFIXES[7]);
    let scaled = value / scale;
    let decimals = match scaled.abs() {
        large if large >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$} {prefix}{unit}")
}

/// A bar on standard error that shows itself only to a terminal.
pub(crate) fn progress(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:28} {wide_bar} {pos}/{len} {eta}");
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes a file so that it is either the old one or the new one, never half of it.
///
/// # Errors
/// When the folder cannot be made or written.
pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, contents)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits_and_a_prefix() {
        let shown =
            [0.01234, 1.0, 999.96, 0.000_999_96, 12_345.0, -2e-7, 0.0].map(|value| quantity(value, "J"));
        assert_eq!(shown, ["12.3 mJ", "1.00 J", "1.00 kJ", "1.00 mJ", "12.3 kJ", "-200 nJ", "0 J"]);
    }

    #[test]
    fn causes_are_said_once() {
        let inner = std::io::Error::other("no space");
        let error = anyhow::Error::new(inner).context("cannot write x: no space").context("profile");
        assert_eq!(sentence(&error), "profile: cannot write x: no space");
    }
}
