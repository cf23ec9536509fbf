//! `tables.md`: the tables of a profile in Markdown, to be pasted.

use std::fmt::Write;

use crate::report::json::Profile;
use crate::report::table;

/// The tables of all phases of all models.
pub fn render(profile: &Profile) -> String {
    let mut text = String::new();
    for (model, phase) in profile.phases() {
        let cached = match phase.kv_length {
            0 => String::new(),
            kv_length => format!(", {kv_length} tokens in the cache"),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "## {} {}: {} x {} tokens{cached}, {}\n",
            model.model.name, phase.name, phase.batch, phase.tokens, model.device
        );
        let mut add = |title: &str, table: table::Table| {
            if !table.rows.is_empty() {
                let _ = writeln!(text, "### {title}\n\n{}", table.markdown());
            }
        };
        add("Figures", table::summary(phase));
        add("By kind", table::kinds(phase));
        add("By layer", table::layers(phase));
        if phase.regression.is_some() {
            add("Classes of modules, by regression", table::classes(phase));
        }
        add("Every module", table::modules(phase));
        let _ = writeln!(text, "{}\n", table::closure(phase));
        if let Some(regression) = table::regression(phase) {
            let _ = writeln!(text, "{regression}\n");
        }
        for note in &phase.notes {
            let _ = writeln!(text, "- {note}");
        }
        text.push('\n');
    }
    text
}
