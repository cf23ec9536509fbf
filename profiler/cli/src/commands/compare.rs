//! `joulewise compare`: what changed between two profiles, and is it more than chance?

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use joulewise_profiler::comparison::compare;
use joulewise_profiler::report::comparison;
use joulewise_profiler::report::json::{PhaseProfile, Profile};

use crate::commands::show_table;
use crate::{Verdict, output};

/// Compare two profiles: Welch's test on every figure, corrected for their number, with effect sizes.
#[derive(Args)]
pub(crate) struct Compare {
    /// A profile.json, or the folder it is in.
    first: PathBuf,
    /// The other one.
    second: PathBuf,
    /// Compare single modules, too.
    #[arg(long)]
    modules: bool,
    /// Write a page for people.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(self) -> Result<Verdict> {
        let (first, second) = (read(&self.first)?, read(&self.second)?);
        let result = compare(&first, &second);
        if result.phases.is_empty() {
            bail!(
                "nothing to compare: {} has {}, {} has {}",
                self.first.display(),
                phases(&first),
                self.second.display(),
                phases(&second)
            );
        }
        if let Some(path) = &self.html {
            let names = [&self.first, &self.second].map(|path| path.display().to_string());
            let page = comparison::html(&result, &names[0], &names[1])?;
            std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.json {
            output::json(&result)?;
            return Ok(Verdict::Passed);
        }
        for phase in &result.phases {
            output::line(format!("\n{}", phase.name))?;
            show_table(&comparison::table(phase, self.modules))?;
        }
        result.notes.iter().try_for_each(|note| output::line(format!("note: {note}")))?;
        Ok(Verdict::Passed)
    }
}

/// The phases of a profile, in words.
fn phases(profile: &Profile) -> String {
    let of_all =
        profile.models.iter().flat_map(|model| model.phases.iter().map(|phase| (&model.model.name, phase)));
    let names = of_all.map(|(model, phase)| {
        let PhaseProfile { name, batch, tokens, kv_length, .. } = phase;
        let behind = if *kv_length > 0 { format!(" behind {kv_length}") } else { String::new() };
        format!("{model} {name} ({batch} x {tokens} tokens{behind})")
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Reads a profile from its file or its folder.
///
/// # Errors
/// When there is none.
pub(crate) fn read(path: &Path) -> Result<Profile> {
    let file = if path.is_dir() { path.join("profile.json") } else { path.to_owned() };
    Ok(Profile::read_json(&file)?)
}
