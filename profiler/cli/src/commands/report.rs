//! `joulewise report`: the files of a profile once more, without measuring.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_profiler::report;
use joulewise_profiler::reprice::attribute_again;
use serde::Serialize;

use crate::commands::compare::read;
use crate::{Verdict, output};

/// Write report.html and all other files of a profile anew from its profile.json.
#[derive(Args)]
pub(crate) struct Report {
    /// Folder with a profile.json.
    folder: PathBuf,
    /// Folder for the files; the same by default.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Attribute the joules to modules again, from the windows in the profile and as this version does it.
    #[arg(long)]
    attribute: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

impl Report {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut profile = read(&self.folder)?;
        if self.attribute {
            attribute_again(&mut profile)?;
        }
        let files = report::write(self.out.as_ref().unwrap_or(&self.folder), &profile)?;
        if self.json {
            output::json(&Written { files })?;
        } else {
            files.iter().try_for_each(|file| output::line(format!("wrote {}", file.display())))?;
        }
        Ok(Verdict::Passed)
    }
}
