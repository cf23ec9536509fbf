//! Watching a run from outside.

use crate::error::Result;
use crate::module::ModuleId;
use crate::op::ValueId;
use crate::program::{Cut, Program};

/// How finely a run is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// Not at all: the whole program in one call.
    Off,
    /// One cut per layer, and one for what stands before, between and behind the layers.
    Block,
    /// One cut per module.
    Module,
    /// One cut per step.
    Step,
}

/// How long one cut took.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The module, or the parent that stands for several.
    pub module: ModuleId,
    /// First step and the one behind the last.
    pub steps: std::ops::Range<usize>,
    /// Begin, in seconds since the begin of the run.
    pub start_s: f64,
    /// Length in seconds.
    pub duration_s: f64,
}

/// Reads values of a program that is being run.
pub trait ValueReader {
    /// Elements of a value, row-major; waits for the device.
    ///
    /// # Errors
    /// When this program never writes the value.
    fn read(&mut self, value: ValueId) -> Result<&[f32]>;
}

/// Sees the cuts of a run. Every method but `granularity` does nothing unless it is overridden.
pub trait Observer {
    /// How finely to cut.
    fn granularity(&self) -> Granularity;

    /// Called before a cut is submitted.
    fn enter(&mut self, program: &Program, cut: &Cut) {
        let _ = (program, cut);
    }

    /// Called when a cut was submitted; reading a value waits until it is there.
    ///
    /// # Errors
    /// An error ends the run and is handed to its caller.
    fn exit(&mut self, program: &Program, cut: &Cut, values: &mut dyn ValueReader) -> Result<()> {
        let _ = (program, cut, values);
        Ok(())
    }

    /// Called once at the end of a run with the times of all its cuts, in order.
    fn spans(&mut self, program: &Program, spans: &[Span]) {
        let _ = (program, spans);
    }
}

/// Observes nothing; the run is one piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn granularity(&self) -> Granularity {
        Granularity::Off
    }
}
