//! Attention over a whole sequence and over a key-value cache.

use criterion::{Criterion, criterion_group, criterion_main};
use joulewise_benches::{case, criterion_run, run};

fn attention(criterion: &mut Criterion) {
    let is_test = run::is_test();
    let mut group = criterion.benchmark_group("attention");
    for kernels in run::all_kernels() {
        criterion_run::cases(&mut group, kernels.threads(), case::attention(&kernels, is_test));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion_run::config();
    targets = criterion_run::ceilings, attention
}
criterion_main!(benches);
