//! How a benchmark was started.

use std::sync::Arc;
use std::thread::available_parallelism;

use joulewise_kernels::cpu::{CpuKernels, ThreadPool};

/// Whether the benchmarks run as tests (`cargo bench -- --test`): everything once, at small shapes.
pub fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The best kernels of this processor, on one thread and on all of them.
pub fn all_kernels() -> Vec<CpuKernels> {
    let all = available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, all];
    counts.dedup();
    counts.into_iter().map(|threads| CpuKernels::best(Arc::new(ThreadPool::new(threads)))).collect()
}

/// `1 thread`, `2 threads`.
pub fn threads_label(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}
