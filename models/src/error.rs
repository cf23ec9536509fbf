//! The one error of this crate: every variant reads as one sentence that names the file or key at fault.

use std::path::PathBuf;

use joulewise_engine::{EngineError, Format};

/// Why a model, a tokenizer or a table of word vectors could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system refused a file.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A directory lacks a file that every model has.
    #[error("{directory} has no {file}: {advice}")]
    MissingFile {
        /// The directory that was given.
        directory: PathBuf,
        /// The file that is not there.
        file: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory that something is in already.
    #[error("{0} is not empty; name a directory that is, or that is not there yet")]
    NotEmpty(PathBuf),
    /// A weight in a format that the file's layout has no place for.
    #[error("`{name}` cannot be written in {format}: compressed-tensors has no layout for that")]
    Unwritable {
        /// The weight.
        name: String,
        /// The format it should have.
        format: Format,
    },
    /// A program that cannot run models of this family.
    #[error("{target} knows no model of the family `{family}`")]
    NoRecipe {
        /// The program.
        target: &'static str,
        /// The family.
        family: String,
    },
    /// A name that is neither a directory nor a demo nor a preset.
    #[error("`{name}` is no model: expected a directory, a `.gguf` file, or one of {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A file that should be JSON is not.
    #[error("{origin} is not valid JSON: {source}")]
    Json {
        /// The file.
        origin: String,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A key that the model cannot be built without.
    #[error("{origin} has no key `{key}`")]
    MissingKey {
        /// The file.
        origin: String,
        /// The key, in its canonical spelling.
        key: String,
    },
    /// A key whose value is of the wrong kind, or out of range.
    #[error("{origin}: key `{key}` is {got}, expected {expected}")]
    WrongValue {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What it should have been.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A configuration that is valid but asks for something this engine does not do.
    #[error("{origin}: `{key}` = {value} is not supported: {reason}")]
    Unsupported {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// An architecture without a family.
    #[error("{origin}: architecture `{}` is not supported, expected one of {known}", name.escape_debug())]
    UnknownArchitecture {
        /// The file.
        origin: String,
        /// What the configuration says.
        name: String,
        /// The registered ones.
        known: String,
    },
    /// A safetensors file whose header is damaged or lies about its contents.
    #[error("{origin} is not a valid safetensors file: {problem}")]
    Safetensors {
        /// The file.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A GGUF file that is damaged, lies about its contents, or holds something that is not read.
    #[error("{origin} is not a readable GGUF file: {problem}")]
    Gguf {
        /// The file.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The index of a sharded checkpoint does not match its shards.
    #[error("{origin} does not match its shards: {problem}")]
    ShardIndex {
        /// The index file.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that the model needs is stored as numbers that cannot be read.
    #[error("tensor `{name}` is stored as {got}, expected {expected}")]
    TensorDtype {
        /// Name in the checkpoint.
        name: String,
        /// What can be read.
        expected: &'static str,
        /// What is stored.
        got: String,
    },
    /// A tensor whose stored numbers cannot be decoded.
    #[error("tensor `{name}` cannot be decoded: {problem}")]
    TensorValues {
        /// Name in the checkpoint.
        name: String,
        /// What is wrong with them.
        problem: String,
    },
    /// Elements past the end of a tensor were asked for.
    #[error("tensor `{name}` has {elements} elements, element {end} was asked for")]
    TensorRange {
        /// Name in the checkpoint.
        name: String,
        /// Elements there are.
        elements: usize,
        /// One past the last element asked for.
        end: usize,
    },
    /// A checkpoint with two tensors of one name.
    #[error("{origin}: tensor `{name}` occurs twice")]
    TwiceTensor {
        /// The checkpoint.
        origin: String,
        /// The tensor.
        name: String,
    },
    /// The checkpoint has no such tensor.
    #[error("{origin} has no tensor `{name}`")]
    MissingTensor {
        /// The checkpoint.
        origin: String,
        /// The tensor.
        name: String,
    },
    /// A tokenizer file that the tokenizer library refuses.
    #[error("{origin} is not a usable tokenizer: {source}")]
    Tokenizer {
        /// The file.
        origin: String,
        /// What the library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text that the tokenizer cannot encode, or ids that it cannot decode.
    #[error("the tokenizer failed: {0}")]
    Tokenize(Box<dyn std::error::Error + Send + Sync>),
    /// A model that never had a tokenizer.
    #[error("{0} has no tokenizer and so takes no text; profile, plan and bench model need none")]
    NoTokenizer(String),
    /// A line of a word-vector file that is not a word and its numbers.
    #[error("{origin}, line {line}: {problem}")]
    WordVectorLine {
        /// The file.
        origin: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A word that a lookup needs and the table lacks.
    #[error("the table has no vector for `{0}`")]
    UnknownWord(String),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] joulewise_kernels::KernelError),
    /// The engine refused the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Result of everything in this crate that can fail.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// As the engine carries the errors of weight sources.
    pub(crate) fn into_engine(self, tensor: &str) -> EngineError {
        match self {
            ModelError::MissingTensor { name, .. } => EngineError::MissingTensor(name),
            ModelError::Engine(error) => error,
            other => EngineError::WeightSource { name: tensor.to_owned(), source: Box::new(other) },
        }
    }
}
