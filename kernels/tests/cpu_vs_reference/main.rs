//! Every operation on every instruction set against the reference, over seeded random shapes.
//!
//! What runs and what this machine lacks is announced (`RUN x86_64 avx2`, `SKIP x86_64 amx`); with `REQUIRE_ISA=avx512` in the
//! environment that is a failure.
//!
//! Tolerances are rounding bounds, derived where they are computed. `EPSILON = 2^-24` is the largest relative error
//! of one rounded operation; a sum of `k` terms is off by at most `k EPSILON` times the sum of their magnitudes
//! (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; the second-order terms are covered by
//! counting a few additions more).

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it skips"
)]

mod attention;
mod elementwise;
mod matmul;
mod norm;
mod refuse;
mod rows;

use std::io::{self, Write};
use std::sync::{Arc, Once};

use joulewise_kernels::args::Rows;
use joulewise_kernels::cpu::{CpuKernels, Isa, ThreadPool};

/// Unit roundoff of `f32`.
const EPSILON: f64 = 1.0 / (1u64 << 24) as f64;

/// The kernels of every instruction set that is available here, on two threads.
fn kernels() -> Vec<CpuKernels> {
    static ANNOUNCE: Once = Once::new();
    thread_local! {
        // One pool per test, not one per case.
        static POOL: Arc<ThreadPool> = Arc::new(ThreadPool::new(2));
    }
    let kernels = |isa: &Isa| CpuKernels::for_isa(*isa, POOL.with(Arc::clone));
    ANNOUNCE.call_once(|| {
        for isa in Isa::ALL {
            let what = if kernels(isa).is_some() { "RUN" } else { "SKIP" };
            // Past the test runner, which swallows what passing tests print.
            let _ = writeln!(io::stderr(), "{what} {} {isa}", std::env::consts::ARCH);
        }
    });
    let all: Vec<CpuKernels> = Isa::ALL.iter().filter_map(kernels).collect();
    let required = std::env::var("REQUIRE_ISA").ok();
    if let Some(required) = required {
        let is_available = all.iter().any(|kernels| kernels.isa().name() == required);
        assert!(is_available, "REQUIRE_ISA={required} is not available here");
    }
    all
}

/// A stream of numbers that never changes (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of the choices.
    fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Uniform in `-1.0..1.0`.
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// A matrix inside a wider buffer as often as not.
    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let stride = cols + self.choose(&[0, 0, 1, 7, 16]);
        Matrix { data: self.values(rows * stride), rows, cols, stride }
    }
}

struct Matrix {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Matrix {
    fn view(&self) -> Rows<'_> {
        // The last row need not be followed by the rest of its stride.
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.cols };
        Rows { data: &self.data[..len], rows: self.rows, cols: self.cols, stride: self.stride }
    }

    fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.stride..][..self.cols]
    }
}

/// Asserts `|got - expected| <= tolerance` element by element.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - f64::from(*expected)).abs();
        let tolerance = tolerance(i);
        assert!(
            error <= tolerance,
            "{what}: element {i} is {got}, expected {expected}, off by {error:e} > {tolerance:e}"
        );
    }
}
