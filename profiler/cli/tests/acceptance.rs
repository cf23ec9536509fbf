//! Published scores of the models beside the checkout, to the last digit that was published.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]
#![allow(clippy::print_stdout, reason = "a test says what it skipped")]

mod program;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use program::joulewise;
use serde_json::Value;

/// A file or folder beside the checkout.
fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path)
}

/// What `eval` says of a model, `None` where the model or the data is not there.
fn eval(model: &str, task: &str, data: &str) -> Option<Value> {
    eval_in("fp32", None, model, task, data)
}

/// The same in another strategy, calibrated on a text where it needs that.
fn eval_in(strategy: &str, text: Option<&str>, model: &str, task: &str, data: &str) -> Option<Value> {
    let (model, data) = (shared(&format!("models/{model}")), shared(&format!("data/{data}")));
    if let Some(missing) = [&model, &data].into_iter().find(|path| !path.exists()) {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP acceptance: {} is not there", missing.display());
        return None;
    }
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    let mut arguments = vec!["eval", model, "--task", task, "--data", data, "--json", "--strategy", strategy];
    let text = text.map(|text| shared(&format!("data/{text}")));
    arguments.extend(text.iter().flat_map(|text| ["--calibrate", text.to_str().unwrap()]));
    let run = joulewise(&arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    Some(serde_json::from_str(&run.stdout).unwrap())
}

#[test]
fn sst2_accuracy() {
    for (model, correct) in [("distilbert-sst2", 779), ("distilbert-sst2-mini", 722)] {
        let Some(report) = eval(model, "sst2", "sst2/dev.tsv") else { continue };
        assert_eq!((&report["correct"], &report["n"]), (&correct.into(), &872.into()), "{model}");
    }
}

/// 8 bits lose at most half a point of accuracy, 4 of 872. No more than 2 points, one standard error and a half of a
/// paired difference in which 5 % of the answers change, are allowed to 4 bits.
#[test]
fn low_bit_sst2_accuracy() {
    let (model, data) = ("distilbert-sst2", "sst2/dev.tsv");
    for (strategy, text, allowed) in [
        ("int8-dynamic", None, 4),
        ("int8", Some("sst2/train.tsv"), 4),
        ("fp8", None, 4),
        ("int4", None, 17),
        ("nf4", None, 17),
        ("mxfp4", None, 17),
        ("nvfp4", None, 17),
    ] {
        let Some(report) = eval_in(strategy, text, model, "sst2", data) else { continue };
        let correct = report["correct"].as_i64().unwrap();
        assert!(correct >= 779 - allowed, "{strategy}: {correct} of 872");
    }
}

/// 8 bits cost at most 1 % of perplexity.
#[test]
fn low_bit_wikitext2_perplexity() {
    let Some(report) =
        eval_in("int8-dynamic", None, "gpt2-wikitext2-mini", "wikitext2", "wikitext-2/test.txt")
    else {
        return;
    };
    let score = report["score"].as_f64().unwrap();
    assert!(score < 31.0011 * 1.01, "{score}");
}

#[test]
fn wikitext2_perplexity() {
    for (model, perplexity, tokens) in
        [("gpt2-wikitext2", 46.3807, 295_382), ("gpt2-wikitext2-mini", 31.0011, 348_363)]
    {
        let Some(report) = eval(model, "wikitext2", "wikitext-2/test.txt") else { continue };
        assert_eq!(report["n"], tokens, "{model}");
        let score = report["score"].as_f64().unwrap();
        // Published to four decimals, and to be met within 0.002.
        assert!((score - perplexity).abs() < 0.002, "{model}: {score}");
    }
}

#[test]
fn stsb_correlation() {
    let Some(report) = eval("minilm-l6", "stsb", "stsb/stsb-en-test.csv") else { return };
    let score = report["score"].as_f64().unwrap();
    // Published to five decimals, and to be met within 0.0002.
    assert!((score - 0.82035).abs() < 0.0002, "{score}");
}
