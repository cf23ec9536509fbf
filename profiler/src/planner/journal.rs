//! What was measured so far, so that an interrupted run can go on where it was.
//!
//! One JSON object per line: the first says what the run is, each further one holds one finished result under its key.
//! A line is written when its result is known, and a last line that was cut off is as if it had never been begun. A run
//! that is resumed takes results from here instead of measuring again, so it ends with the same files.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ProfilerError, Result};

/// Results by key, each kept in a file as soon as it is there.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    results: HashMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: Value,
}

/// Key of the line that says what the run is.
const RUN: &str = "run";

impl Journal {
    /// A journal of the run that `run` describes: a new one, or, when `resume` is set, the one in the file. A file that
    /// is not resumed is kept beside it as `*.previous`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or belongs to another run.
    pub fn open(path: &Path, run: &Value, resume: bool) -> Result<Journal> {
        let known = if resume && path.exists() { read(path)? } else { Vec::new() };
        let mut results: HashMap<String, Value> =
            known.into_iter().map(|line| (line.key, line.value)).collect();
        if let Some(other) = results.get(RUN).filter(|other| *other != run) {
            let message = format!(
                "{} belongs to another run, whose {}; start anew without --resume, or in another folder",
                path.display(),
                difference(other, run)
            );
            return Err(ProfilerError::Protocol(message));
        }
        if !resume && path.exists() {
            let previous = path.with_added_extension("previous");
            std::fs::rename(path, &previous).map_err(ProfilerError::io(path))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true);
        // Beside its place until everything known is in it: an interruption now must not cost what is there.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let file = options.open(&unfinished).map_err(ProfilerError::io(&unfinished))?;
        let mut journal = Journal { path: path.to_owned(), file, results: HashMap::new() };
        journal.put(RUN, run)?;
        results.remove(RUN);
        // Written anew, so that no half line stands in the middle.
        let mut keys: Vec<String> = results.keys().cloned().collect();
        keys.sort();
        for key in keys {
            if let Some(value) = results.remove(&key) {
                journal.put(&key, &value)?;
            }
        }
        std::fs::rename(&unfinished, path).map_err(ProfilerError::io(path))?;
        Ok(journal)
    }

    /// A result that is already there.
    ///
    /// # Errors
    /// When it is of another shape than asked for.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.results.get(key) else { return Ok(None) };
        let wrong = |error: serde_json::Error| {
            ProfilerError::Protocol(format!("{}: `{key}` cannot be used: {error}", self.path.display()))
        };
        serde_json::from_value(value.clone()).map(Some).map_err(wrong)
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<()> {
        let failed = |error: serde_json::Error| ProfilerError::Report(format!("`{key}`: {error}"));
        let value = serde_json::to_value(value).map_err(failed)?;
        let line = Line { key: key.to_owned(), value };
        let mut text = serde_json::to_vec(&line).map_err(failed)?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(ProfilerError::io(&self.path))?;
        self.results.insert(line.key, line.value);
        Ok(())
    }

    /// The result under a key, measured now unless it is already there.
    ///
    /// # Errors
    /// Those of measuring and of the file.
    pub fn once<T, F>(&mut self, key: &str, measure: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Result<T>,
    {
        if let Some(known) = self.get(key)? {
            return Ok(known);
        }
        let value = measure()?;
        self.put(key, &value)?;
        Ok(value)
    }
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(ProfilerError::io(path))?;
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(file).split(b'\n').enumerate() {
        let text = text.map_err(ProfilerError::io(path))?;
        match serde_json::from_slice(&text) {
            Ok(line) => lines.push(line),
            // The run was stopped while it wrote; what was measured is measured again.
            Err(_) if number > 0 || text.is_empty() => break,
            Err(error) => {
                return Err(ProfilerError::Malformed {
                    path: path.to_owned(),
                    line: 1,
                    expected: "the journal of a plan".to_owned(),
                    got: error.to_string(),
                });
            }
        }
    }
    Ok(lines)
}

/// The first field in which two runs differ.
fn difference(there: &Value, here: &Value) -> String {
    let fields = here.as_object().into_iter().flatten();
    let differs = fields.map(|(key, value)| (key, value, &there[key])).find(|(_, a, b)| a != b);
    differs.map_or_else(
        || "settings differ".to_owned(),
        |(key, here, there)| format!("{key} is {there} and not {here}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resumed_journal_measures_only_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let run = json!({ "model": "m", "seed": 1 });
        let mut journal = Journal::open(&path, &run, false).unwrap();
        // A value that a shorter decimal would change.
        let value = 0.1 + 0.2;
        assert_eq!(journal.once("a", || Ok(value)).unwrap(), value);
        drop(journal);
        // Half a line is what an interruption leaves.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"key\":\"b\",\"va").unwrap();
        let mut journal = Journal::open(&path, &run, true).unwrap();
        let again = |_: &str| -> Result<f64> { Err(ProfilerError::Protocol("measured again".to_owned())) };
        assert_eq!(journal.once("a", || again("a")).unwrap(), value);
        assert_eq!(journal.once("b", || Ok(2.0)).unwrap(), 2.0);
        drop(journal);
        let journal = Journal::open(&path, &run, true).unwrap();
        assert_eq!(journal.get::<f64>("b").unwrap(), Some(2.0));
        drop(journal);
        assert_eq!(Journal::open(&path, &run, false).unwrap().get::<f64>("a").unwrap(), None);
    }

    #[test]
    fn the_journal_of_another_run_is_refused_with_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        drop(Journal::open(&path, &json!({ "model": "m", "seed": 1 }), false).unwrap());
        let error = Journal::open(&path, &json!({ "model": "m", "seed": 2 }), true).unwrap_err().to_string();
        assert!(error.contains("whose seed is 1 and not 2"), "{error}");
        std::fs::write(&path, "no journal\n").unwrap();
        assert!(Journal::open(&path, &json!({}), true).unwrap_err().to_string().contains(":1: "));
    }
}
