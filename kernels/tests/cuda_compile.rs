//! Every CUDA kernel compiles for every supported architecture, without a GPU, and the hot ones keep everything in
//! registers.

use joulewise_kernels::cuda::driver::nvrtc::Nvrtc;
use joulewise_kernels::cuda::source::{CHECKED_ARCHITECTURES, SOURCES, resources};

/// Kernels that run once per prompt or whose time nobody notices may spill.
const COLD: &[&str] = &["rows.cu", "rope.cu"];

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let nvrtc = match Nvrtc::find(None) {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            println!("SKIP cuda: kernels were not compiled: {error}");
            return;
        }
    };
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.path().display());
    let mut problems = Vec::new();
    let mut kernels = 0;
    for source in SOURCES {
        for arch in CHECKED_ARCHITECTURES.iter().filter(|arch| source.is_for(arch)) {
            match source.compile(&nvrtc, arch) {
                Err(error) => problems.push(error.to_string()),
                Ok(compiled) => {
                    let report = resources(&compiled.log);
                    assert!(!report.is_empty(), "{} for {arch}: no report in {}", source.file, compiled.log);
                    kernels += report.len();
                    for kernel in report {
                        if kernel.spilled_bytes > 0 && !COLD.contains(&source.file) {
                            problems.push(format!(
                                "{arch}: {} spills {} bytes",
                                kernel.kernel, kernel.spilled_bytes
                            ));
                        }
                    }
                }
            }
        }
    }
    println!("{kernels} kernels in {} files for {CHECKED_ARCHITECTURES:?}", SOURCES.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
