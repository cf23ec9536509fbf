//! `energy.folded`: stacks for a flame graph of joules, as `inferno-flamegraph --countname nJ` and speedscope read them.
//!
//! One line per module, its path as the stack, and the nanojoules of an iteration as the count: counts are whole
//! numbers, and small modules take less than a microjoule. Modules without a resolved energy are left out; what no
//! module accounts for has a frame of its own where it is positive.

use std::io::Write;

use crate::error::{ProfilerError, Result};
use crate::report::json::{PhaseProfile, Profile};
use crate::report::table::energy_closure;

/// Writes the stacks of all phases of all models.
///
/// # Errors
/// [`ProfilerError::Report`] when writing fails.
pub fn write(profile: &Profile, writer: &mut dyn Write) -> Result<()> {
    for (model, phase) in profile.phases() {
        for (stack, energy_j) in stacks(phase) {
            let count = (1e9 * energy_j).round();
            if count > 0.0 {
                writeln!(writer, "{};{};{stack} {count}", frame(&model.model.name), frame(&phase.name))
                    .map_err(|error| ProfilerError::Report(error.to_string()))?;
            }
        }
    }
    Ok(())
}

fn stacks(phase: &PhaseProfile) -> Vec<(String, f64)> {
    let module = |row: &crate::report::json::ModuleRow| {
        let stack: Vec<String> = row.path.split('.').map(frame).collect();
        Some((stack.join(";"), row.energy(phase.attribution).energy_j?))
    };
    let rest =
        energy_closure(phase).unattributed.energy_j.map(|rest_j| ("(unattributed)".to_owned(), rest_j));
    phase.modules.iter().filter_map(module).chain(rest).collect()
}

/// A name without what separates frames and counts.
fn frame(name: &str) -> String {
    name.replace([';', ' ', '\n'], "_")
}
