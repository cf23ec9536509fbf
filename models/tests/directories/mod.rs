//! Where models with reference tensors are.

#![allow(clippy::print_stdout, reason = "a test says what it skipped")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The tiny ones that are committed, and those beside the checkout or, if set, in `JOULEWISE_MODELS`.
pub(crate) fn golden_directories() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside =
        std::env::var_os("JOULEWISE_MODELS").map_or_else(|| here.join("../../shared/models"), PathBuf::from);
    let mut found = Vec::new();
    search(&here.join("tests/golden"), &mut found);
    let committed = found.len();
    assert!(committed > 20, "models/tests/golden is incomplete");
    search(&beside, &mut found);
    if found.len() == committed {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP models beside the checkout: {} has none", beside.display());
    }
    found.sort();
    found
}

/// Directories with a `golden.safetensors`, at any depth.
fn search(root: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if path.join("golden.safetensors").is_file() {
            found.push(path.clone());
        }
        search(&path, found);
    }
}
