//! `joulewise study`: models and strategies side by side, each trial in a process of its own.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

#[path = "../../tests/chromium/mod.rs"]
mod chromium;
mod program;

use std::fs;
use std::path::PathBuf;

use program::{Run, joulewise};
use serde_json::Value;
use tempfile::TempDir;

const SENTENCES: &str = "sentence\tlabel\na wonderful , moving film\t1\na dull , lifeless mess\t0\n\
                         funny and charming\t1\nboring and bad\t0\n";

/// A short study, and where its files are.
fn study(arguments: &[&str]) -> (Run, TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (data, out) = (directory.path().join("dev.tsv"), directory.path().join("out"));
    fs::write(&data, SENTENCES).unwrap();
    let common = ["--rounds", "2", "--seconds", "0.001", "--device", "cpu", "--threads", "1"];
    let paths = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let run = joulewise(&[&["study"], arguments, &common, &paths].concat());
    (run, directory, out)
}

#[test]
fn models_and_strategies_side_by_side() {
    let (run, _directory, out) = study(&[
        "synth:tinybert",
        "demo:distilbert",
        "words:demo:distilbert",
        "--strategies",
        "fp32,int4",
        "--json",
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let study: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&study["is_complete"], &study["n_sentences"]), (&true.into(), &4.into()));
    let rows = study["rows"].as_array().unwrap();
    let names: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["model"].as_str().unwrap(), row["strategy"].as_str().unwrap())).collect();
    assert_eq!(
        names[..3],
        [("synth:tinybert", "fp32"), ("synth:tinybert", "int4"), ("demo:distilbert", "fp32")]
    );
    for pair in rows.chunks(2) {
        let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
        assert_eq!(pair[0]["agreement"], 1.0);
        assert!(number(&pair[1], "weight_bytes") < number(&pair[0], "weight_bytes"), "{pair:?}");
        for row in pair {
            assert_eq!(row["n_trials"], 2);
            assert!(number(row, "sentence_time_s") > 0.0 && number(row, "peak_memory_bytes") > 1e6, "{row}");
            // A timer's tick more than one core is possible, two cores are not.
            let cores = number(&study["environment"], "n_cores");
            assert!((0.0..2.0).contains(&(number(row, "cpu_share") * cores)), "{row}");
        }
    }
    // Nothing is claimed of random weights; the trained model knows these four.
    assert_eq!((&rows[0]["accuracy"], &rows[2]["accuracy"]), (&Value::Null, &1.0.into()));
    assert_eq!(rows[4]["readout"], "nearest-class-mean");
    let csv = fs::read_to_string(out.join("study.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + rows.len());
    let page = fs::read_to_string(out.join("study.html")).unwrap();
    assert!(page.contains("words:demo:distilbert") && !page.contains("http"), "a page that fetches nothing");
    chromium::check(
        &out.join("study.html"),
        &["class=\"energy\"", "class=\"quality\"", "words:demo:distilbert"],
    );
}

#[test]
fn the_peak_of_a_large_model_is_not_that_of_a_small_one() {
    let (run, _directory, _) =
        study(&["synth:minilm-l6", "words:demo:distilbert", "--strategies", "fp32", "--json"]);
    let study: Value = serde_json::from_str(&run.stdout).unwrap();
    let peak = |row: usize| study["rows"][row]["peak_memory_bytes"].as_f64().unwrap();
    // 90 MB of weights that the baseline does not have.
    assert!(peak(0) - peak(1) > 60e6, "{} and {}", peak(0), peak(1));
}

#[test]
fn what_cannot_run_does_not_stop_the_rest() {
    // Static scales need a text to calibrate on.
    let (run, _directory, out) = study(&["demo:distilbert", "--strategies", "fp32,int8"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stdout.contains("failed: demo:distilbert in int8: strategy int8 takes the scales"),
        "{}",
        run.stdout
    );
    let study: Value = serde_json::from_slice(&fs::read(out.join("study.json")).unwrap()).unwrap();
    assert_eq!(
        (study["rows"].as_array().unwrap().len(), &study["failures"][0]["strategy"]),
        (1, &"int8".into())
    );
}

#[test]
fn a_resumed_study_keeps_the_trials_that_were_done() {
    let directory = tempfile::tempdir().unwrap();
    let (data, out) = (directory.path().join("dev.tsv"), directory.path().join("out"));
    fs::write(&data, SENTENCES).unwrap();
    let study = |more: &[&str]| {
        let common = ["study", "demo:distilbert", "--strategies", "fp32,int4", "--seconds", "0.001"];
        let paths = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cpu"];
        joulewise(&[&common[..], &paths, more].concat())
    };
    assert_eq!(study(&["--rounds", "2"]).code, 0);
    let journal = out.join("study-journal.jsonl");
    let whole = fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 1 + 4, "what the run is, and its trials");
    // As if it had been killed while the third trial was written.
    let kept = lines[..3].join("\n") + "\n";
    fs::write(&journal, kept.clone() + &lines[3][..lines[3].len() / 2]).unwrap();
    let resumed = study(&["--rounds", "3", "--resume"]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let resumed = fs::read_to_string(&journal).unwrap();
    assert!(resumed.starts_with(&kept) && resumed.lines().count() == 1 + 6, "{resumed}");
    let study_json: Value = serde_json::from_slice(&fs::read(out.join("study.json")).unwrap()).unwrap();
    let counts: Vec<_> = study_json["rows"].as_array().unwrap().iter().map(|row| &row["n_trials"]).collect();
    assert_eq!(counts, [3, 3]);
    let other = study(&["--rounds", "3", "--resume", "--seed", "1"]);
    assert!(other.code == 2 && other.stderr.contains("belongs to another run"), "{}", other.stderr);
}

#[test]
fn mistakes_are_said_before_anything_is_measured() {
    let refused = |arguments: &[&str]| {
        let (run, _directory, out) = study(arguments);
        assert!(run.code == 2 && run.stderr.lines().count() == 1, "{}", run.stderr);
        assert!(!out.join("study.json").exists());
        run.stderr
    };
    assert!(refused(&["demo:bert"]).contains("is no model"));
    assert!(refused(&["words:no/such/file"]).contains("is no model"));
    assert!(refused(&["demo:gpt2"]).contains("a study compares encoders"));
    let missing = joulewise(&["study", "demo:distilbert", "--data", "no/such/file"]);
    assert!(missing.code == 2 && missing.stderr.contains("no/such/file"), "{}", missing.stderr);
}
