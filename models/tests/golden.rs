//! Every checkpoint with reference tensors against them: the ones that are committed, and those beside the checkout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use joulewise_engine::{CpuBackend, Session, SessionOptions, Strategy};
use joulewise_models::golden::Golden;
use joulewise_models::{Checkpoint, ModelConfig, families};

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

fn verify(directory: &Path) -> String {
    let config = ModelConfig::load(directory).unwrap();
    let graph = Arc::new(families::build(&config).unwrap());
    let weights = Checkpoint::open(directory).unwrap();
    let backend = CpuBackend::new(2);
    let mut session =
        Session::open(&backend, graph, &weights, &Strategy::Fp32.into(), SessionOptions::default()).unwrap();
    let golden = Golden::open(&directory.join("golden.safetensors")).unwrap();
    let verification = golden.verify(&mut session, BOUND, |_| {}).unwrap();
    let summary = format!("{}: {verification:?}", directory.display());
    assert!(verification.passed, "{summary}");
    format!("{} worst NMSE {:.2e}, {} cases", directory.display(), verification.worst_nmse, golden.len())
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
        println!("{}", verify(&directory));
    }
}
