//! What people and machines get to see: tables and JSON on standard output, everything else on standard error.

use std::io::{self, Write};
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

/// A bar on standard error that shows itself only to a terminal.
pub(crate) fn progress(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:28} {wide_bar} {pos}/{len} {eta}");
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let inner = io::Error::other("no space");
        let error = anyhow::Error::new(inner).context("cannot write x: no space").context("profile");
        assert_eq!(sentence(&error), "profile: cannot write x: no space");
    }
}
