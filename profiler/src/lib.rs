//! Joules per module: sensors, measurement protocol, attribution, evaluation and reports.
//!
//! The way of a figure: a [`sensor`] tells joules or watts; the [`meter`] samples it into a [`trace`], with wraps and
//! resets sorted out by a [`counter`]; a window over the trace is a reading of [`energy`] with its provenance and two
//! kinds of uncertainty. The [`experiment`] runs a [`workload`] in such windows, whole, watched by an [`observer`], and
//! module by module; [`attribution`] turns the windows into joules per module and holds their sum against the whole;
//! the [`report`] shows them. [`mod@profile`] is all of this in one call. A [`task`] is a data set with a score, run under the
//! same meter; [`metrics`] set score and tokens against energy. [`mod@reprice`] does it again with the log of an external
//! meter.
//!
//! Nothing here knows a model by name, prints, or ends the process. Times are seconds on one line ([`clock`]), energies
//! joules.

pub mod alignment;
pub mod attribution;
pub mod ballast;
pub mod classes;
pub mod clock;
pub mod comparison;
pub mod conditions;
pub mod counter;
pub mod energy;
pub mod environment;
pub mod error;
pub mod experiment;
pub mod marker;
pub mod meter;
pub mod metrics;
pub mod observer;
pub mod planner;

pub mod process;
pub mod profile;
pub mod protocol;
pub mod recording;
pub mod regression;
pub mod report;
pub mod reprice;
pub mod resume;
mod schedule;
pub mod sensor;
pub mod statistics;
pub mod study;
pub mod task;
pub mod trace;
pub mod workload;

pub use error::{ProfilerError, Result};
