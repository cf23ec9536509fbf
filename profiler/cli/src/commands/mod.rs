//! One file per command.

pub(crate) mod bench;
pub(crate) mod classify;
pub(crate) mod compare;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod quantize;
pub(crate) mod report;
pub(crate) mod reprice;
pub(crate) mod sensors;
pub(crate) mod study;
pub(crate) mod verify;

use anyhow::Result;
use joulewise_profiler::report::table::Table;

use crate::output;

/// A table of the profiler on standard output.
fn show_table(table: &Table) -> Result<()> {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    output::line(output::table(&header, table.rows.iter().cloned()))
}
