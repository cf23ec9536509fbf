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

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_killed_evaluation_ends_with_the_score_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (data, journal) = (folder.path().join("dev.tsv"), folder.path().join("eval.journal"));
    let mut text = "sentence\tlabel\n".to_owned();
    for index in 0..3000 {
        let film = ["wonderful , moving", "dull , lifeless", "long", "strange and beautiful"][index % 4];
        text += &format!("a {film} film of {} hours\t{}\n", index % 7, (index / 3) % 2);
    }
    fs::write(&data, text).unwrap();
    let (data, kept) = (data.to_str().unwrap(), journal.to_str().unwrap());
    let eval = ["eval", "demo:distilbert", "--task", "sst2", "--data", data, "--json"];
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    kill_when(&[&eval[..], &["--journal", kept]].concat(), || lines() >= 2);
    let n_kept = lines();
    let resumed = joulewise(&[&eval[..], &["--journal", kept, "--resume"]].concat());
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert!(lines() > n_kept, "something was left to do");
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
        data,
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
    let profile = |out: &Path| {
        let out = out.to_str().unwrap().to_owned();
        let shape = ["--tokens", "64", "--trials", "2", "--no-regression", "--iterations", "60"];
        let fixed = ["profile", "demo:distilbert", "--out"].map(str::to_owned);
        [&fixed[..], &[out], &shape.map(str::to_owned)].concat()
    };
    let read = |out: &Path| json(&fs::read_to_string(out.join("profile.json")).unwrap());
    let (killed, whole) = (folder.path().join("killed"), folder.path().join("whole"));
    let arguments = profile(&killed);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    kill_when(&arguments, || killed.join("report.html").exists());
    let partial = read(&killed);
    assert_eq!(partial["is_complete"], false);
    let resumed = joulewise(&[&arguments[..], &["--resume"]].concat());
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let uninterrupted = profile(&whole);
    assert_eq!(joulewise(&uninterrupted.iter().map(String::as_str).collect::<Vec<_>>()).code, 0);
    let (resumed, uninterrupted) = (read(&killed), read(&whole));
    assert_eq!(resumed["is_complete"], true);
    // What was kept is still there, bit by bit, and the rest is what it would have been.
    let kept = partial["models"][0]["phases"][0]["windows"].as_array().unwrap();
    let windows = resumed["models"][0]["phases"][0]["windows"].as_array().unwrap();
    assert!(!kept.is_empty() && kept.len() < windows.len(), "{} of {}", kept.len(), windows.len());
    for (old, new) in kept.iter().zip(windows) {
        assert_eq!((&old["start_unix_s"], &old["energy_j"]), (&new["start_unix_s"], &new["energy_j"]));
    }
    assert_eq!(trials(&resumed), trials(&uninterrupted));
    let modules = |profile: &Value| profile["models"][0]["phases"][0]["modules"].as_array().unwrap().len();
    assert_eq!(modules(&resumed), modules(&uninterrupted));
}
