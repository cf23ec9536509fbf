//! Every command on the embedded models, read as a machine reads it.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

#[path = "../../tests/chromium/mod.rs"]
mod chromium;
mod program;

use std::fs;

use program::joulewise;
use serde_json::Value;

/// The document that a command prints.
fn document(arguments: &[&str]) -> Value {
    let run = joulewise(arguments);
    assert_eq!(run.code, 0, "{arguments:?}: {}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn verify_prints_its_verdict_and_fails_past_the_bound() {
    let verdict = document(&["verify", "demo:gpt2", "--json"]);
    assert_eq!(verdict["passed"], true);
    assert!(verdict["worst_nmse"].as_f64().unwrap() <= 1e-9);
    let case = &verdict["cases"][0];
    assert_eq!((&case["case"], &case["greedy_match"]), (&0.into(), &true.into()));
    assert!(case["logits_nmse"].is_f64() && case["hidden_nmse"].as_array().unwrap().len() == 5);
    let failed = joulewise(&["verify", "demo:gpt2", "--bound", "1e-30", "--json"]);
    assert_eq!(failed.code, 1);
    assert!(failed.stdout.contains("\"passed\": false"));
}

#[test]
fn narrow_weights_pass_within_what_their_rounding_explains() {
    for strategy in ["fp16", "bf16"] {
        for model in ["demo:distilbert", "demo:gpt2"] {
            let run = joulewise(&["verify", model, "--strategy", strategy, "--json"]);
            let verdict: Value = serde_json::from_str(&run.stdout).unwrap();
            let (worst, bound) =
                (verdict["worst_nmse"].as_f64().unwrap(), verdict["bound"].as_f64().unwrap());
            assert!(worst <= bound, "{model} {strategy}: {worst} > {bound}");
        }
    }
}

#[test]
fn eval_counts_and_says_where_its_joules_come_from() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("dev.tsv");
    fs::write(&data, "sentence\tlabel\na wonderful , moving film\t1\na dull , lifeless mess\t0\n").unwrap();
    let report =
        document(&["eval", "demo:distilbert", "--task", "sst2", "--data", data.to_str().unwrap(), "--json"]);
    assert_eq!((&report["task"], &report["metric"]), (&"sst2".into(), &"accuracy".into()));
    assert_eq!((&report["n"], &report["correct"], &report["score"]), (&2.into(), &2.into(), &1.0.into()));
    let energy = &report["energy"];
    let provenances = ["measured", "measured-low-resolution", "derived", "estimated", "unresolved"];
    assert!(provenances.contains(&energy["provenance"].as_str().unwrap()), "{energy}");
    assert_eq!(energy["energy_j"].is_null(), energy["provenance"] == "unresolved");
}

#[test]
fn generation_is_the_same_for_the_same_seed() {
    let generate = |seed: &str| {
        let arguments =
            ["generate", "demo:gpt2", "The film was", "-n", "12", "--temperature", "1", "--seed", seed];
        document(&[&arguments[..], &["--json"]].concat())["token_ids"].clone()
    };
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
    let greedy = joulewise(&["generate", "demo:gpt2", "The film was", "-n", "4"]);
    assert!(greedy.stdout.starts_with("The film was") && greedy.stdout.len() > "The film was\n".len());
}

#[test]
fn classify_names_the_class() {
    let results = document(&["classify", "demo:distilbert", "a wonderful film", "a dull mess", "--json"]);
    assert_eq!((&results[0]["label"], &results[1]["label"]), (&"POSITIVE".into(), &"NEGATIVE".into()));
    assert!(results[0]["probability"].as_f64().unwrap() > 0.5);
}

#[test]
fn sensors_lists_at_least_the_estimator_or_something_better() {
    let listing = document(&["sensors", "--json"]);
    assert!(!listing["sensors"].as_array().unwrap().is_empty());
}

#[test]
fn profile_writes_its_files_and_its_rows_add_up_to_the_modules_time() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let arguments =
        ["profile", "demo:gpt2", "--quick", "--tokens", "16", "--trials", "2", "--iterations", "3"];
    let profile = document(&[&arguments[..], &["--out", out, "--json"]].concat());
    assert_eq!((&profile["schema_version"], &profile["is_complete"]), (&1.into(), &true.into()));
    let phases = profile["models"][0]["phases"].as_array().unwrap();
    assert_eq!(
        phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["prefill", "decode"]
    );
    for phase in phases {
        let modules = phase["modules"].as_array().unwrap();
        let sum: f64 = modules.iter().map(|module| module["time"]["duration_s"].as_f64().unwrap()).sum();
        let closure = phase["closure"]["time"]["sum_s"].as_f64().unwrap();
        // The same numbers added in another order.
        assert!((sum / closure - 1.0).abs() < 1e-9, "{sum} against {closure}");
        assert!(modules.iter().any(|module| module["path"] == "transformer.h.3.mlp.c_fc"));
    }
    for file in ["profile.json", "layers.csv", "report.html", "trace.json"] {
        assert!(fs::metadata(directory.path().join(file)).unwrap().len() > 1000, "{file}");
    }
    let again = directory.path().join("again");
    let written = document(&["report", out, "--out", again.to_str().unwrap(), "--json"]);
    let files = written["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file.as_str().unwrap().ends_with("report.html")));
    for file in files {
        assert!(fs::metadata(file.as_str().unwrap()).unwrap().len() > 0, "{file}");
    }
    // A log that ended long before the profile begins has no joules for it.
    let log = directory.path().join("power.csv");
    fs::write(&log, "time,watts\n0,10\n1,10\n2,10\n").unwrap();
    let repriced = document(&[
        "reprice",
        out,
        "--power-log",
        log.to_str().unwrap(),
        "--out",
        again.to_str().unwrap(),
        "--json",
    ]);
    assert_eq!((&repriced["offset_s"], &repriced["correlation"]), (&0.0.into(), &Value::Null));
    let repriced = fs::read(again.join("profile.json")).unwrap();
    let repriced: Value = serde_json::from_slice(&repriced).unwrap();
    assert!(repriced["models"][0]["phases"][0]["whole"]["energy"]["energy_j"].is_null());
    let page = directory.path().join("comparison.html");
    let run = joulewise(&["compare", out, out, "--html", page.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    chromium::check(&page, &["class=\"change\"", "demo:gpt2", "p, corrected"]);

    let mut other = profile.clone();
    for phase in other["models"][0]["phases"].as_array_mut().unwrap() {
        phase["tokens"] = 77.into();
    }
    let file = directory.path().join("other.json");
    fs::write(&file, other.to_string()).unwrap();
    let run = joulewise(&["compare", out, file.to_str().unwrap()]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("nothing to compare") && run.stderr.contains("77 tokens"), "{}", run.stderr);
}
