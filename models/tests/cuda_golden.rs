//! Every model with reference tensors, run on a GPU. Says `SKIP cuda: ...` where there is none.
//!
//! `JOULEWISE_MODELS` names the directory of models, where it is not `../shared/models` beside the checkout.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use joulewise_engine::{CudaBackend, Session, SessionOptions, Strategy};
use joulewise_models::{ModelSpec, load};

/// Bound on the NMSE of logits and hidden states, and whether the greedy continuation has to be exact.
///
/// f32: as on the CPU. 16 bits: weights are off by up to `2^-22` (f16) and `2^-16` (bf16) of their square; products in
/// which both operands are rounded, some fifty of them behind each other, add up to about a hundred times that.
const EXPECTED: &[(Strategy, f64, bool)] =
    &[(Strategy::Fp32, 1e-9, true), (Strategy::Fp16, 2.4e-5, false), (Strategy::Bf16, 1.6e-3, false)];

fn golden_directories(root: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.join("golden.safetensors").is_file() {
                found.push(path.clone());
            }
            golden_directories(&path, found);
        }
    }
}

#[test]
fn models_match_their_references_on_a_gpu() {
    let start = Instant::now();
    let backend = match CudaBackend::new(0) {
        Ok(backend) => backend,
        Err(error) => {
            // Past the test runner, which swallows what passing tests print.
            let _ = writeln!(io::stderr(), "SKIP cuda: {error}");
            return;
        }
    };
    println!("kernels ready after {:.2} s", start.elapsed().as_secs_f64());
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    let root = std::env::var_os("JOULEWISE_MODELS").map_or(beside, PathBuf::from);
    let mut directories = Vec::new();
    golden_directories(&root, &mut directories);
    directories.sort();
    let demos = ["demo:distilbert", "demo:gpt2"].map(|name| ModelSpec::parse(name).unwrap());
    let specs = demos.into_iter().chain(directories.into_iter().map(ModelSpec::Directory));
    let mut failures = 0;
    for spec in specs {
        for (strategy, bound, needs_greedy) in EXPECTED {
            let model = load(&spec).unwrap();
            let golden = model.golden().unwrap().unwrap();
            let (plan, weights) = ((*strategy).into(), model.weights.as_ref());
            let opened = Session::open(&backend, model.graph, weights, &plan, SessionOptions::default());
            let result = opened.map_err(|error| error.to_string()).and_then(|mut session| {
                golden.verify(&mut session, *bound, |_| {}).map_err(|error| error.to_string())
            });
            match result {
                Ok(verification) => {
                    let greedy = verification.cases.iter().filter(|case| case.greedy_match).count();
                    let is_exact = greedy == verification.cases.len();
                    let passed = verification.worst_nmse <= *bound && (is_exact || !needs_greedy);
                    failures += usize::from(!passed);
                    println!(
                        "{} {:5} worst NMSE {:.2e} bound {bound:.1e} greedy {greedy}/{} {}",
                        if passed { "ok  " } else { "FAIL" },
                        strategy.name(),
                        verification.worst_nmse,
                        verification.cases.len(),
                        model.name
                    );
                }
                Err(error) => {
                    failures += 1;
                    println!("FAIL {:5} {}: {error}", strategy.name(), model.name);
                }
            }
        }
    }
    assert_eq!(failures, 0, "models that do not match");
}
