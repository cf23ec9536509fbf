//! Joules per module: sensors, measurement protocol, attribution, evaluation and reports.
//!
//! The way of a figure: a [`sensor`] tells joules or watts, the [`meter`] samples it and keeps a [`trace`], a window
//! over the trace is an [`energy::EnergyReading`].

pub mod clock;
pub mod counter;
pub mod energy;
pub mod environment;
pub mod error;
pub mod meter;
pub mod process;
pub mod sensor;
pub mod statistics;
pub mod task;
pub mod trace;

pub use error::{ProfilerError, Result};
