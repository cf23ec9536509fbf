//! The one error of this crate.

use joulewise_kernels::KernelError;

/// Why the engine refused to build, load or run a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A family put blocks together whose sizes do not fit.
    #[error("{module}: {what} is {got}, expected {expected}")]
    Build {
        /// Path of the module that was being built.
        module: String,
        /// The size that is wrong.
        what: &'static str,
        /// What it should have been.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// Two modules, or two separate stretches of one program, carry the same path.
    #[error("module `{0}` was built twice")]
    DuplicateModule(String),
    /// The checkpoint has no such tensor.
    #[error("tensor `{0}` is missing from the checkpoint")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {got:?}, the configuration says {expected:?}")]
    TensorShape {
        /// Name in the checkpoint.
        name: String,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
        /// Shape in the checkpoint.
        got: Vec<usize>,
    },
    /// The checkpoint could not deliver a tensor.
    #[error("tensor `{name}` cannot be read: {source}")]
    WeightSource {
        /// Name in the checkpoint.
        name: String,
        /// What the checkpoint said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Loading would need more memory than the machine has free.
    #[error(
        "the weights need {:.1} GB and only {:.1} GB are free; a narrower strategy needs less",
        *needed_bytes as f64 / 1e9,
        *available_bytes as f64 / 1e9
    )]
    OutOfMemory {
        /// Bytes of the packed weights.
        needed_bytes: usize,
        /// Bytes that can be had.
        available_bytes: usize,
    },
    /// A run would need more memory than the weights leave free.
    #[error(
        "a run of {batch} x {tokens} tokens needs {:.1} GB beside the weights and only {:.1} GB are free; fewer \
         sequences or tokens need less",
        *needed_bytes as f64 / 1e9,
        *available_bytes as f64 / 1e9
    )]
    RunOutOfMemory {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        tokens: usize,
        /// Bytes of its values and of what it writes to the cache.
        needed_bytes: usize,
        /// Bytes that can be had.
        available_bytes: usize,
    },
    /// More tokens than the model has positions, or than the session was opened for.
    #[error("the input needs {needed} positions, the context holds {limit}")]
    ContextOverflow {
        /// Positions asked for.
        needed: usize,
        /// Positions there are.
        limit: usize,
    },
    /// A batch without a single token.
    #[error("the input is empty")]
    EmptyInput,
    /// The rows of a batch, its mask or its token types do not have one common size.
    #[error("batch: {what} has {got} elements, expected {expected}")]
    BatchShape {
        /// The part that is wrong.
        what: &'static str,
        /// What it should have been.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// A token id past the end of the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The call does not fit this model or the state of the session.
    #[error("{0}")]
    Unsupported(String),
    /// A name that no strategy carries.
    #[error("unknown strategy `{name}`, expected one of {known}")]
    UnknownStrategy {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A module asks for 8-bit activations with scales that nobody measured.
    #[error(
        "module `{0}` needs the range of its inputs: calibrate on a text, or take a strategy with dynamic scales"
    )]
    MissingCalibration(String),
    /// No module has this path.
    #[error("the model has no module `{0}`")]
    UnknownModule(String),
}

/// Result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, EngineError>;
