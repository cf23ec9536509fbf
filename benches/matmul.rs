//! Products of activations and packed weights.

use criterion::{Criterion, criterion_group, criterion_main};
use joulewise_benches::case::{self, Weights};
use joulewise_benches::{criterion_run, run};

fn matmul(criterion: &mut Criterion) {
    let is_test = run::is_test();
    let mut group = criterion.benchmark_group("matmul");
    for kernels in run::all_kernels() {
        criterion_run::cases(&mut group, kernels.threads(), case::matmul(&kernels, Weights::Cached, is_test));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion_run::config();
    targets = criterion_run::ceilings, matmul
}
criterion_main!(benches);
