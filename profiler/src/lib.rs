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
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use joulewise_engine::{Session, TokenBatch};
//! use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
//! use joulewise_profiler::profile::{Setup, profile};
//! use joulewise_profiler::protocol::Protocol;
//! use joulewise_profiler::sensor::{SearchPaths, discover};
//! use joulewise_profiler::workload::SessionWorkload;
//!
//! /// Prints the joules of each module of a prompt's pass.
//! fn joules(session: &mut Session, prompt: &TokenBatch) -> joulewise_profiler::Result<()> {
//!     let meter = EnergyMeter::start(discover(&SearchPaths::default()).sensors);
//!     let protocol = Protocol::default();
//!     let setup = Setup { meter: &meter, device: MeteredDevice::Cpu, work: None, protocol: &protocol };
//!     let mut workload = SessionWorkload::prefill(session, prompt)?;
//!     let phase = profile(&mut workload, &setup, &mut |_| ControlFlow::Continue(()))?;
//!     for module in &phase.modules {
//!         let energy = module.energy(phase.attribution);
//!         println!("{:40} {:?} J ± {:?} [{}]", module.path, energy.energy_j, energy.ci95_j, energy.provenance);
//!     }
//!     Ok(())
//! }
//! ```
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
mod memory_limit;
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
mod tick_grid;
pub mod trace;
mod weighing;
pub mod workload;

pub use error::{ProfilerError, Result};
