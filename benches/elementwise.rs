//! Norms, activations, softmax, rotary embedding, embedding rows, additions.

use criterion::{Criterion, criterion_group, criterion_main};
use joulewise_benches::{case, criterion_run, run};

fn elementwise(criterion: &mut Criterion) {
    let is_test = run::is_test();
    let mut group = criterion.benchmark_group("elementwise");
    for kernels in run::all_kernels() {
        criterion_run::cases(&mut group, kernels.threads(), case::elementwise(&kernels, is_test));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion_run::config();
    targets = criterion_run::ceilings, elementwise
}
criterion_main!(benches);
