//! Cases and ceilings as criterion benchmarks.

use std::cell::LazyCell;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

use crate::case::{Case, must};
use crate::ceiling::{MultiplyAdds, ReadBuffer};
use crate::run;

/// Half a second per benchmark: there are hundreds, and a kernel's times hardly vary.
pub fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args()
}

/// Adds one benchmark per case; criterion prints flops as elements.
pub fn cases(group: &mut BenchmarkGroup<'_, WallTime>, threads: usize, cases: Vec<Case<'_>>) {
    let threads = run::threads_label(threads);
    for Case { op, shape, work, prepare } in cases {
        group.throughput(match work.flops {
            0.0 => Throughput::BytesDecimal(work.bytes as u64),
            flops => Throughput::ElementsAndBytes { elements: flops as u64, bytes: work.bytes as u64 },
        });
        // Criterion calls the closure below once per sample; the inputs are made once, and only if it is chosen.
        let mut call = LazyCell::new(prepare);
        group.bench_function(BenchmarkId::new(format!("{op}/{shape}"), &threads), |bencher| {
            bencher.iter(&mut *LazyCell::force_mut(&mut call));
        });
    }
}

/// Adds what the other benchmarks are to be held against: multiply-adds per second, and bytes read per second.
pub fn ceilings(criterion: &mut Criterion) {
    let is_test = run::is_test();
    let adds = MultiplyAdds { iterations: if is_test { 100 } else { 100_000 } };
    let mut group = criterion.benchmark_group("ceiling");
    for kernels in run::all_kernels() {
        let threads = run::threads_label(kernels.threads());
        let pool = kernels.pool();
        group.throughput(Throughput::Elements(adds.run(pool) as u64));
        group.bench_function(BenchmarkId::new("f32 multiply-add", &threads), |b| b.iter(|| adds.run(pool)));
        for size_mib in if is_test { &[1][..] } else { &[2, 16, 256] } {
            let buffer = LazyCell::new(|| must(ReadBuffer::new(size_mib << 20)));
            group.throughput(Throughput::BytesDecimal((size_mib << 20) as u64));
            let id = BenchmarkId::new(format!("read {size_mib} MiB"), &threads);
            group.bench_function(id, |bencher| {
                let buffer = &*buffer;
                bencher.iter(|| buffer.read(pool, 1));
            });
        }
    }
    group.finish();
}
