//! Whole steps of whole models: a sentence through an encoder, a prompt and one token through a decoder.

use std::cell::LazyCell;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use joulewise_benches::case::must;
use joulewise_benches::model::model_steps;
use joulewise_benches::{criterion_run, run};
use joulewise_engine::Unobserved;

fn model_step(criterion: &mut Criterion) {
    let is_test = run::is_test();
    let mut group = criterion.benchmark_group("model_step");
    for kernels in run::all_kernels() {
        let threads = run::threads_label(kernels.threads());
        for step in model_steps(is_test) {
            let mut session = LazyCell::new(|| step.session(&kernels));
            let id = BenchmarkId::new(format!("{}/{}", step.label(), step.strategy), &threads);
            group.bench_function(id, |bencher| {
                let session = LazyCell::force_mut(&mut session);
                bencher.iter(|| must(session.observed(&mut Unobserved).repeat()).rows);
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion_run::config();
    targets = criterion_run::ceilings, model_step
}
criterion_main!(benches);
