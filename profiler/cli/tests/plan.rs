//! A small planning run from end to end: interrupted, resumed, pinned, and its plan run.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

#[path = "../../tests/chromium/mod.rs"]
mod chromium;
mod program;

use std::fs;
use std::path::Path;

use program::joulewise;
use serde_json::Value;

/// Few strategies, texts and rounds: what counts here is that the parts fit together.
fn plan(out: &Path, more: &[&str]) -> program::Run {
    let mut arguments = vec!["plan", "demo:gpt2", "--device", "cpu", "--strategies", "int8-dynamic,int4"];
    arguments.extend(["--texts", "2", "--verify-texts", "2", "--tokens", "16", "--generate", "0"]);
    arguments.extend(["--rounds", "1", "--random-plans", "3", "--out", out.to_str().unwrap()]);
    arguments.extend(more);
    joulewise(&arguments)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_resumed_run_ends_with_the_same_files_and_its_plan_can_be_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let run = plan(&out, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let files = ["plan.toml", "pareto.json", "sensitivity.json"];
    let whole = files.map(|file| fs::read_to_string(out.join(file)).unwrap());
    // An interruption leaves the first lines of the journal, the last of them cut off.
    let journal = out.join("plan-journal.jsonl");
    let lines = fs::read_to_string(&journal).unwrap();
    let middle = lines.len() / 2;
    let resume = |text: &str| {
        fs::write(&journal, text).unwrap();
        plan(&out, &["--resume"])
    };
    assert_eq!(resume(&lines).code, 0);
    assert_eq!(files.map(|file| fs::read_to_string(out.join(file)).unwrap()), whole);
    // Energies are measured anew where they are missing; losses come out as before.
    assert_eq!(resume(&lines[..middle]).code, 0);
    let (before, after): (Value, Value) =
        (serde_json::from_str(&whole[2]).unwrap(), read(&out.join("sensitivity.json")));
    let outcome = |study: &Value| {
        let pairs =
            study["groups"].as_array().unwrap().iter().flat_map(|row| row["pairs"].as_array().unwrap());
        pairs.map(|pair| pair["outcome"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(outcome(&before), outcome(&after));

    // The tied table is one group with the head, positions keep 16 bits, and the front is in order.
    let names: Vec<&str> =
        after["groups"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names[0].contains(" + "), "{names:?}");
    assert_eq!(after["groups"][0]["kind"], "embedding + head");
    assert!(after["groups"][1]["pairs"][1]["excluded"].as_str().unwrap().contains("keep 16 bits"));
    let front = read(&out.join("pareto.json"));
    let points = front["points"].as_array().unwrap();
    let of = |point: &Value, field: &str| point["totals"][field].as_f64().unwrap();
    assert!(
        !points.is_empty()
            && points.windows(2).all(|pair| {
                of(&pair[0], "sensitivity_nats") < of(&pair[1], "sensitivity_nats")
                    && of(&pair[0], "energy_j") > of(&pair[1], "energy_j")
            })
    );

    // What the page shows is there, and what it says follows from the numbers.
    let page = fs::read_to_string(out.join("plan.html")).unwrap();
    let parts =
        ["<polyline", "class=\"dot plan\"", "class=\"heat", "Spearman", "more sensitive than the layers"];
    for part in parts {
        assert!(page.contains(part), "{part}");
    }
    chromium::check(&out.join("plan.html"), &parts);
    assert!(!page.contains("http") && !page.contains("undefined") && !page.contains("NaN"));
    let findings = &after["findings"];
    let figures = findings["correlations"]["figures"].as_array().unwrap();
    for matrix in ["pearson", "spearman"] {
        let rows = findings["correlations"][matrix].as_array().unwrap();
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(row.as_array().unwrap().len(), figures.len());
            // A figure goes with itself; a few roundings in f64.
            assert!((row[index].as_f64().unwrap() - 1.0).abs() < 1e-9, "{matrix} {}", figures[index]);
        }
    }
    let shares =
        findings["kinds"].as_array().unwrap().iter().map(|row| row["energy_share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);

    let file = out.join("plan.toml");
    for target in ["compressed-tensors", "modelopt", "llama-quantize"] {
        let run = joulewise(&["export", "demo:gpt2", "--plan", file.to_str().unwrap(), "--to", target]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!run.stdout.is_empty());
    }
    let run = joulewise(&[
        "generate",
        "demo:gpt2",
        "The film",
        "-n",
        "2",
        "--device",
        "cpu",
        "--plan",
        file.to_str().unwrap(),
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn energies_by_regression_go_on_round_by_round() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Less time than three rounds take: they are gone through nevertheless, and nothing more.
    let run = plan(&out, &["--regression", "--time-limit", "1"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let study = read(&out.join("sensitivity.json"));
    assert_eq!(study["costs"]["attribution"], "regression");
    let journal = out.join("plan-journal.jsonl");
    let lines = fs::read_to_string(&journal).unwrap();
    let profile = |name: &str| {
        let line = lines.lines().find(|line| line.contains(&format!("\"profile {name}\"")))?;
        serde_json::from_str::<Value>(line).ok()
    };
    assert!(profile("3 fp32").is_none());
    let whole = &profile("2 fp32").unwrap()["value"]["phases"][0][0]["whole"]["energy"];
    assert_eq!(whole["n"], 3, "each round adds to those before");
    // As if it had been interrupted in the second round.
    let until = lines.find("\"profile 1").unwrap();
    fs::write(&journal, &lines[..until]).unwrap();
    let run = plan(&out, &["--regression", "--resume"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("random plan: sum of its groups"), "{}", run.stdout);
    let run = plan(&out, &["--resume"]);
    assert!(run.code == 2 && run.stderr.contains("whose regression is true and not false"), "{}", run.stderr);
}

#[test]
fn pinned_rows_stay_and_other_settings_do_not_resume() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let pins = folder.path().join("pins.toml");
    fs::write(
        &pins,
        "schema = 1\nstrategy = \"fp32\"\n[[rule]]\nmatch = \"transformer.h.*.mlp.c_fc\"\nuse = \"int4\"\npin = true\n",
    )
    .unwrap();
    let run = plan(&out, &["--plan", pins.to_str().unwrap(), "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let study: Value = serde_json::from_str(&run.stdout).unwrap();
    for (row, strategy) in
        study["groups"].as_array().unwrap().iter().zip(study["chosen"]["strategies"].as_array().unwrap())
    {
        let is_pinned = row["name"].as_str().unwrap().ends_with("mlp.c_fc");
        assert!(!is_pinned || strategy == "int4", "{} {strategy}", row["name"]);
    }
    let written = fs::read_to_string(out.join("plan.toml")).unwrap();
    assert_eq!(written.matches("pin = true").count(), 4 + 1, "four layers, and the line that explains pins");
    let other = plan(&out, &["--resume", "--seed", "1"]);
    assert_eq!(other.code, 2);
    assert!(other.stderr.contains("belongs to another run, whose seed is 0 and not 1"), "{}", other.stderr);
}

#[test]
fn limits_that_nothing_keeps_to_are_refused_with_what_could_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let run = plan(&out, &["--max-bytes", "1000"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.starts_with("error: no plan keeps to 1000 bytes: "), "{}", run.stderr);
    assert!(!out.join("plan-journal.jsonl").exists(), "nothing is measured, and no other journal replaced");
    // The figure is exact: so many bytes can be had.
    let least = run.stderr.trim_end().rsplit(' ').next().unwrap();
    let run = plan(&out, &["--max-bytes", least, "--json"]);
    assert_eq!(run.code, 0, "{least}: {}", run.stderr);
    let study: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(study["chosen"]["predicted"]["size_bytes"].as_f64(), least.parse().ok());
    // How long formats take is only known once they were run; random plans need not be.
    let run = plan(&out, &["--max-seconds", "1e-9"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(
        run.stderr.contains("no plan keeps to 0.000000001 s a request (the fastest takes "),
        "{}",
        run.stderr
    );
    let journal = fs::read_to_string(out.join("plan-journal.jsonl")).unwrap();
    assert!(!journal.contains("random plan"), "{journal}");

    let pins = folder.path().join("pins.toml");
    let rule = "[[rule]]\nmatch = \"transformer.h.*.mlp.c_fc\"\nuse = \"nf4\"\npin = true\n";
    fs::write(&pins, format!("schema = 1\nstrategy = \"fp32\"\n{rule}")).unwrap();
    let run = plan(&out, &["--plan", pins.to_str().unwrap()]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("pinned to nf4, which is not among"), "{}", run.stderr);
}

#[test]
fn plans_that_do_not_fit_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.toml");
    for (text, expected) in [
        ("strategy = \"fp16\"\n", "missing field `schema`"),
        (
            "schema = 1\nstrategy = \"fp16\"\n[[rule]]\nmatch = \"no.such\"\nuse = \"int4\"\n",
            "`no.such` fits no module",
        ),
        (
            "schema = 1\nstrategy = \"fp16\"\n[[rule]]\nmatch = \"transformer.wpe\"\nuse = \"int4\"\n",
            "keep 16 bits",
        ),
        (
            "schema = 1\nstrategy = \"fp16\"\n[[rule]]\nmatch = \"transformer.wte\"\nuse = \"int4\"\n",
            "have one scheme together",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let run = joulewise(&["generate", "demo:gpt2", "The", "--plan", file.to_str().unwrap()]);
        assert_eq!(run.code, 2, "{text}");
        assert!(run.stderr.contains(expected) && run.stderr.lines().count() == 1, "{}", run.stderr);
    }
    let run = joulewise(&["plan", "demo:gpt2", "--max-loss", "0", "--out", folder.path().to_str().unwrap()]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--max-loss 0"), "{}", run.stderr);
}
