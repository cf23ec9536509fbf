//! Every model with reference tensors against them: the embedded ones, the tiny ones of `tests/golden`, and those
//! beside the checkout.

#![allow(clippy::print_stdout, reason = "a test says what it measured and what it skipped")]

mod directories;

use directories::golden_directories;
use joulewise_engine::{CpuBackend, Session, SessionOptions, Strategy};
use joulewise_models::{ModelSpec, load};

/// Two f32 evaluations of the same network in another order of summation differ by rounding alone. A dot product over
/// k terms has a relative error of at most about sqrt(k) 2^-24 when roundings are independent; with k up to 3072 and
/// some 50 of them behind each other, that is below 3e-5, whose square is the bound.
const BOUND: f64 = 1e-9;

/// What differs, if anything.
fn verify(spec: &ModelSpec) -> Result<(), String> {
    let complaint = |error: &dyn std::fmt::Display| format!("{spec:?}: {error}");
    let model = load(spec).map_err(|error| complaint(&error))?;
    let golden =
        model.golden().map_err(|error| complaint(&error))?.ok_or("there is nothing to compare with")?;
    let (backend, plan) = (CpuBackend::new(2), Strategy::Fp32.into());
    let weights = model.weights.as_ref();
    let mut session = Session::open(&backend, model.graph, weights, &plan, SessionOptions::default())
        .map_err(|error| complaint(&error))?;
    let verification = golden.verify(&mut session, BOUND, |_| {}).map_err(|error| complaint(&error))?;
    println!("{} worst NMSE {:.2e}, {} cases", model.name, verification.worst_nmse, golden.len());
    if verification.passed { Ok(()) } else { Err(complaint(&format!("{verification:?}"))) }
}

fn verify_all(specs: impl IntoIterator<Item = ModelSpec>) {
    let failures: Vec<String> = specs.into_iter().filter_map(|spec| verify(&spec).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn embedded_models_match_their_references() {
    verify_all(["demo:distilbert", "demo:gpt2"].map(|name| ModelSpec::parse(name).unwrap()));
}

#[test]
fn models_in_directories_match_their_references() {
    verify_all(golden_directories().into_iter().map(ModelSpec::Directory));
}
