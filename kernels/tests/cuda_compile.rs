//! Every CUDA kernel compiles for every supported architecture, without a GPU, and the hot ones keep everything in
//! registers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use joulewise_kernels::cuda::driver::nvrtc::Nvrtc;
use joulewise_kernels::cuda::source::{CHECKED_ARCHITECTURES, SOURCES, resources};

/// Kernels that run once per prompt or whose time nobody notices may spill.
const COLD: &[&str] = &["rows.cu", "rope.cu"];

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let nvrtc = match Nvrtc::find(None) {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            // Past the test runner, which swallows what passing tests print.
            let _ = writeln!(io::stderr(), "SKIP cuda: kernels were not compiled: {error}");
            return;
        }
    };
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.path().display());
    let work: Vec<_> = SOURCES
        .iter()
        .flat_map(|source| CHECKED_ARCHITECTURES.iter().map(move |arch| (source, *arch)))
        .filter(|(source, arch)| source.is_for(arch))
        .collect();
    let (next, kernels, problems) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let compile = || {
        while let Some((source, arch)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = match source.compile(&nvrtc, arch) {
                Err(error) => vec![error.to_string()],
                Ok(compiled) => {
                    let report = resources(&compiled.log);
                    kernels.fetch_add(report.len(), Ordering::Relaxed);
                    let spilling = report.iter().filter(|kernel| kernel.spilled_bytes > 0);
                    spilling
                        .filter(|_| !COLD.contains(&source.file))
                        .map(|kernel| {
                            format!("{arch}: {} spills {} bytes", kernel.kernel, kernel.spilled_bytes)
                        })
                        .collect()
                }
            };
            problems.lock().unwrap().extend(found);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compile);
        }
    });
    let (kernels, problems) = (kernels.into_inner(), problems.into_inner().unwrap());
    println!("{kernels} kernels in {} compilations", work.len());
    assert!(kernels > SOURCES.len() * 4, "the compiler's report was not understood");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
