//! Every model with reference tensors against them: the embedded ones, the tiny ones of `tests/golden`, and those
//! beside the checkout.

#![allow(clippy::print_stdout, reason = "a test says what it measured and what it skipped")]

mod directories;

use directories::golden_directories;
use joulewise_engine::{CpuBackend, Format, Session, SessionOptions, Strategy};
use joulewise_models::{ModelSpec, load};

/// Two f32 evaluations of the same network in another order of summation differ by rounding alone. A dot product over
/// k terms has a relative error of at most about sqrt(k) 2^-24 when roundings are independent; with k up to 3072 and
/// some 50 of them behind each other, that is below 3e-5, whose square is the bound.
const BOUND: f64 = 1e-9;

/// What differs, if anything, with a cache of some format; `None`: that of the activations.
fn verify(spec: &ModelSpec, cache_format: Option<Format>) -> Result<(), String> {
    let complaint = |error: &dyn std::fmt::Display| format!("{spec:?}: {error}");
    let model = load(spec).map_err(|error| complaint(&error))?;
    let golden =
        model.golden().map_err(|error| complaint(&error))?.ok_or("there is nothing to compare with")?;
    let (backend, plan) = (CpuBackend::new(2), Strategy::Fp32.into());
    let weights = model.weights.as_ref();
    let mut options = SessionOptions::default();
    options.cache_format = cache_format;
    let mut session =
        Session::open(&backend, model.graph, weights, &plan, options).map_err(|error| complaint(&error))?;
    if cache_format.is_some() && !session.rounds_cache() {
        return Ok(());
    }
    let bound = BOUND + rounding_of_cache(&session);
    let verification = golden.verify(&mut session, bound, |_| {}).map_err(|error| complaint(&error))?;
    let (name, worst, cases) = (&model.name, verification.worst_nmse, golden.len());
    println!("{name} cache {cache_format:?} worst NMSE {worst:.2e}, bound {bound:.1e}, {cases} cases");
    // A rounded key may lead to another word where two are about as likely.
    let passed = verification.passed || session.rounds_cache() && worst <= bound;
    if passed { Ok(()) } else { Err(complaint(&format!("{verification:?}"))) }
}

/// Each layer's keys are off by the format's NMSE, and so are its values, independently. What norms and softmax make of
/// a relative error stays below ten times it on trained models, and on these random ones.
fn rounding_of_cache(session: &Session) -> f64 {
    let Some(format) = session.cache_format().filter(|_| session.rounds_cache()) else { return 0.0 };
    let layers = session.graph().cache.map_or(0, |cache| cache.layers);
    10.0 * 2.0 * layers as f64 * format.spec().nmse_bound
}

fn verify_all(specs: impl IntoIterator<Item = ModelSpec>) {
    let caches = [None, Some(Format::F16), Some(Format::Int8)];
    let failures: Vec<String> = specs
        .into_iter()
        .flat_map(|spec| caches.map(|cache_format| verify(&spec, cache_format)))
        .filter_map(Result::err)
        .collect();
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
