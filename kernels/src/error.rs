//! The one error of this crate.

/// Why a kernel refused its arguments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Two sizes that must agree do not.
    #[error("{op}: {what} is {got}, expected {expected}")]
    Shape {
        /// The operation that was asked for.
        op: &'static str,
        /// The size that is wrong.
        what: &'static str,
        /// What it should have been.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// A token, position or row index points past the end of its table.
    #[error("{op}: index {index} is out of range, the table has {rows} rows")]
    Index {
        /// The operation that was asked for.
        op: &'static str,
        /// The offending index.
        index: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// A name that no row of the format table carries.
    #[error("unknown number format `{0}`")]
    UnknownFormat(String),
    /// A device has no kernel for a format.
    #[error("{op}: no kernel for {format} weights on this device")]
    NoKernel {
        /// The operation that was asked for.
        op: &'static str,
        /// The format.
        format: crate::format::Format,
    },
    /// Inputs were rounded for other weights than those they meet.
    #[error("{op}: the inputs were rounded for other weights than {format}")]
    InputKind {
        /// The operation that was asked for.
        op: &'static str,
        /// The format of the weights.
        format: crate::format::Format,
    },
    /// The system has no room for activations or a cache.
    #[error(
        "the machine is out of memory: {needed_bytes} bytes were asked for {what}; a shorter context or a smaller \
         batch needs less"
    )]
    OutOfMemory {
        /// What they are for.
        what: &'static str,
        /// Bytes asked for.
        needed_bytes: usize,
    },
    /// A GPU, its driver or its compiler refused.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::driver::CudaError),
}

/// Result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, KernelError>;
