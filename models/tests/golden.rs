//! Every model with reference tensors against them: the embedded ones, and those beside the checkout.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::{Path, PathBuf};

use joulewise_engine::{CpuBackend, Session, SessionOptions, Strategy};
use joulewise_models::{ModelSpec, load};

/// Two f32 evaluations of the same network in another order of summation differ by rounding alone. A dot product over
/// k terms has a relative error of at most about sqrt(k) 2^-24 when roundings are independent; with k up to 3072 and
/// some 50 of them behind each other, that is below 3e-5, whose square is the bound.
const BOUND: f64 = 1e-9;

/// Directories with a `golden.safetensors`, at any depth.
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

fn verify(spec: &ModelSpec) {
    let model = load(spec).unwrap();
    let golden = model.golden().unwrap().unwrap();
    let (backend, plan) = (CpuBackend::new(2), Strategy::Fp32.into());
    let weights = model.weights.as_ref();
    let mut session =
        Session::open(&backend, model.graph, weights, &plan, SessionOptions::default()).unwrap();
    let verification = golden.verify(&mut session, BOUND, |_| {}).unwrap();
    assert!(verification.passed, "{}: {verification:?}", model.name);
    println!("{} worst NMSE {:.2e}, {} cases", model.name, verification.worst_nmse, golden.len());
}

#[test]
fn embedded_models_match_their_references() {
    for name in ["demo:distilbert", "demo:gpt2"] {
        verify(&ModelSpec::parse(name).unwrap());
    }
}

#[test]
fn models_beside_the_checkout_match_their_references() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    let mut directories = Vec::new();
    golden_directories(&root, &mut directories);
    if directories.is_empty() {
        println!("SKIP golden models: {} is not there", root.display());
    }
    directories.sort();
    for directory in directories {
        verify(&ModelSpec::Directory(directory));
    }
}
