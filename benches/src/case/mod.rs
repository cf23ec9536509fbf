//! What is measured: each kernel call with its shape and its counted work.
//!
//! Criterion benchmarks and the roofline table run the same cases.

mod attention;
mod elementwise;
mod matmul;

pub use attention::attention;
pub use elementwise::elementwise;
pub use matmul::{Weights, matmul};

use crate::roofline::Work;

/// One kernel call that can be repeated.
pub struct Case<'a> {
    /// Operation, with its format or variant.
    pub op: String,
    /// Model, layer and size.
    pub shape: String,
    /// Counted work of one call.
    pub work: Work,
    /// Makes the inputs and hands out the call; big inputs are only made when the case is really run.
    pub prepare: Box<dyn FnOnce() -> Call<'a> + 'a>,
}

/// One run, with its inputs.
pub type Call<'a> = Box<dyn FnMut() + 'a>;

/// A result of a kernel or of the engine that must be there.
///
/// # Panics
/// On an error, with its message.
#[expect(clippy::panic, reason = "a benchmark that cannot run must not print a time")]
pub fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn every_case_runs() {
        for kernels in run::all_kernels() {
            let cases = matmul(&kernels, Weights::Cached, true)
                .into_iter()
                .chain(matmul(&kernels, Weights::Cold, true))
                .chain(attention(&kernels, true))
                .chain(elementwise(&kernels, true));
            for case in cases {
                assert!(case.work.bytes > 0.0, "{} {}", case.op, case.shape);
                (case.prepare)()();
            }
        }
    }
}
