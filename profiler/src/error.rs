//! The one error of this crate.

use std::io;
use std::path::PathBuf;

use joulewise_engine::EngineError;

/// Why something could not be measured, evaluated or reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfilerError {
    // Running the model.
    /// The engine refused a run.
    #[error(transparent)]
    Engine(#[from] EngineError),

    // Sensors.
    /// A sensor is there and may not be read by this user.
    #[error("{sensor} may not be read by this user: {}; {remedy}", path.display())]
    SensorPermission {
        /// Name of the sensor.
        sensor: String,
        /// File that is closed.
        path: PathBuf,
        /// What opens it, as a command.
        remedy: String,
    },
    /// A sensor is there and does not answer.
    #[error("{sensor} does not answer: {reason}")]
    SensorRead {
        /// Name of the sensor.
        sensor: String,
        /// What it said.
        reason: String,
    },

    // Files.
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A row of a data file is not what its format asks for.
    #[error("{}:{line}: expected {expected}, got {got}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A binary file is not what its format asks for.
    #[error("{}, byte {offset}: expected {expected}, got {got}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Bytes from its begin.
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A data file has no rows.
    #[error("{} holds no data: expected {expected}", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
        /// What the format asks for.
        expected: String,
    },

    // Measuring and reporting.
    /// The request cannot be measured as it stands.
    #[error("{0}")]
    Protocol(String),
    /// A text could not be tokenized.
    #[error("text {index} cannot be tokenized: {source}")]
    Encode {
        /// Index of the text in its data set.
        index: usize,
        /// What the tokenizer said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A report could not be rendered.
    #[error("the report cannot be rendered: {0}")]
    Report(String),
}

/// Shorthand of this crate.
pub type Result<T, E = ProfilerError> = std::result::Result<T, E>;

impl ProfilerError {
    /// For `map_err` behind a call on the file `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ProfilerError {
        let path = path.into();
        move |source| ProfilerError::Io { path, source }
    }

    /// For `map_err` behind a call on the sensor `sensor`.
    pub(crate) fn sensor<E: std::fmt::Display>(sensor: &str) -> impl FnOnce(E) -> ProfilerError {
        let sensor = sensor.to_owned();
        move |source| ProfilerError::SensorRead { sensor, reason: source.to_string() }
    }
}
