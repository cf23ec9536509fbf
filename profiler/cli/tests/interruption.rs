//! Long commands that were killed go on where they were and end as if nothing had happened.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod program;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use program::joulewise;
use serde_json::Value;

/// Starts the program, and kills it as soon as a file is as one waits for; the kernel gives it no chance to tidy up.
fn kill_when(arguments: &[&str], is_there: impl Fn() -> bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_joulewise"));
    let mut process = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !is_there() {
        assert!(process.try_wait().unwrap().is_none(), "it ended before it could be killed");
        assert!(begin.elapsed() < Duration::from_secs(120), "nothing was kept within two minutes");
        thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

/// How much work to begin with and to double: a fast machine finishes in the time in which a slow one is caught midway.
fn amounts_of_work(least: usize) -> impl Iterator<Item = usize> {
    (0..6).map(move |doublings| least << doublings)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn write_sentences(path: &Path, count: usize) {
    let mut text = "sentence\tlabel\n".to_owned();
    for index in 0..count {
        let film = ["wonderful , moving", "dull , lifeless", "long", "strange and beautiful"][index % 4];
        text += &format!("a {film} film of {} hours\t{}\n", index % 7, (index / 3) % 2);
    }
    fs::write(path, text).unwrap();
}

#[test]
fn a_killed_evaluation_ends_with_the_score_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (data, journal) = (folder.path().join("dev.tsv"), folder.path().join("eval.journal"));
    let (data_path, kept) = (data.to_str().unwrap(), journal.to_str().unwrap());
    let eval = ["eval", "demo:distilbert", "--task", "sst2", "--data", data_path, "--json"];
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let resumed_midway = amounts_of_work(3000).find_map(|count| {
        write_sentences(&data, count);
        kill_when(&[&eval[..], &["--journal", kept]].concat(), || lines() >= 2);
        let n_kept = lines();
        let resumed = joulewise(&[&eval[..], &["--journal", kept, "--resume"]].concat());
        assert_eq!(resumed.code, 0, "{}", resumed.stderr);
        if lines() > n_kept {
            return Some(resumed);
        }
        fs::remove_file(&journal).unwrap();
        None
    });
    let resumed = resumed_midway.expect("something was left to do");
    let (resumed, whole) = (json(&resumed.stdout), json(&joulewise(&eval).stdout));
    for field in ["score", "score_low", "score_high", "correct", "n", "tokens", "task", "metric"] {
        assert_eq!(resumed[field], whole[field], "{field}");
    }
    assert_eq!(resumed["energy"]["sensor"], whole["energy"]["sensor"]);
    // Another task's journal is none of its business.
    let other = joulewise(&[
        "eval",
        "demo:gpt2",
        "--task",
        "wikitext2",
        "--data",
        data_path,
        "--journal",
        kept,
        "--resume",
    ]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    assert!(other.stderr.contains("belongs to another run"), "{}", other.stderr);
}

/// What was measured: kind, module, round and extra runs of each window.
fn trials(profile: &Value) -> Vec<[Value; 4]> {
    let windows = profile["models"][0]["phases"][0]["windows"].as_array().unwrap();
    let key = |window: &Value| ["target", "module", "round", "extra"].map(|name| window[name].clone());
    windows.iter().map(key).collect()
}

#[test]
fn a_killed_profile_ends_with_the_trials_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let profile = |out: &Path, iterations: usize, resume: &[&str]| {
        let (out, iterations) = (out.to_str().unwrap().to_owned(), iterations.to_string());
        let shape = ["--tokens", "64", "--trials", "2", "--no-regression", "--iterations", &iterations];
        let all = [&["profile", "demo:distilbert", "--out", &out], &shape[..], resume].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |arguments: &[String]| joulewise(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let read = |out: &Path| json(&fs::read_to_string(out.join("profile.json")).unwrap());
    let windows = |profile: &Value| profile["models"][0]["phases"][0]["windows"].as_array().unwrap().clone();
    let (killed, whole) = (folder.path().join("killed"), folder.path().join("whole"));
    let resumed_midway = amounts_of_work(60).find_map(|iterations| {
        let arguments = profile(&killed, iterations, &[]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        kill_when(&arguments, || killed.join("report.html").exists());
        let partial = read(&killed);
        assert_eq!(partial["is_complete"], false);
        let resumed = run(&profile(&killed, iterations, &["--resume"]));
        assert_eq!(resumed.code, 0, "{}", resumed.stderr);
        let resumed = read(&killed);
        if windows(&partial).len() < windows(&resumed).len() {
            return Some((iterations, partial, resumed));
        }
        fs::remove_dir_all(&killed).unwrap();
        None
    });
    let (iterations, partial, resumed) = resumed_midway.expect("something was left to do");
    assert_eq!(run(&profile(&whole, iterations, &[])).code, 0);
    let uninterrupted = read(&whole);
    assert_eq!(resumed["is_complete"], true);
    // What was kept is still there, bit by bit, and the rest is what it would have been.
    let (kept, windows) = (windows(&partial), windows(&resumed));
    assert!(!kept.is_empty());
    for (old, new) in kept.iter().zip(&windows) {
        assert_eq!((&old["start_unix_s"], &old["energy_j"]), (&new["start_unix_s"], &new["energy_j"]));
    }
    assert_eq!(trials(&resumed), trials(&uninterrupted));
    let modules = |profile: &Value| profile["models"][0]["phases"][0]["modules"].as_array().unwrap().len();
    assert_eq!(modules(&resumed), modules(&uninterrupted));
}
