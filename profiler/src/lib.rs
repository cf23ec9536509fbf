//! Joules per module: sensors, measurement protocol, attribution, evaluation and reports.
//!
//! The way of a figure: a [`sensor`] tells joules or watts, the [`meter`] samples it and keeps a [`trace`], a window
//! over the trace is an [`energy::EnergyReading`].

pub mod attribution;
pub mod clock;
pub mod counter;
pub mod energy;
pub mod environment;
pub mod error;
pub mod experiment;
pub mod meter;
pub mod metrics;
pub mod observer;
pub mod process;
pub mod profile;
pub mod report;
pub mod sensor;
pub mod statistics;
pub mod task;
pub mod trace;
pub mod workload;

pub use error::{ProfilerError, Result};
