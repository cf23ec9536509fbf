//! One module, over and over.

use std::ops::Range;

use crate::backend::{ClockReading, Executable, StepInputs};
use crate::error::Result;
use crate::kv_cache::KvCache;

/// A module that is run again and again with the same data.
pub struct Replay<'a> {
    executable: &'a mut dyn Executable,
    inputs: &'a StepInputs,
    cache: Option<&'a mut KvCache>,
    steps: Range<usize>,
    all_steps: usize,
}

impl<'a> Replay<'a> {
    /// Runs what stands before `steps`, so that their inputs are in place.
    pub(super) fn begin(
        executable: &'a mut dyn Executable,
        inputs: &'a StepInputs,
        cache: Option<&'a mut KvCache>,
        steps: Range<usize>,
        all_steps: usize,
    ) -> Result<Self> {
        let mut replay = Replay { executable, inputs, cache, steps, all_steps };
        replay.run_steps(0..replay.steps.start)?;
        Ok(replay)
    }

    /// Runs the module `repeats` times: seconds it took.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self, repeats: usize) -> Result<f64> {
        let from = self.executable.mark()?;
        for _ in 0..repeats {
            self.run_steps(self.steps.clone())?;
        }
        let to = self.executable.mark()?;
        self.executable.seconds_between(from, to)
    }

    /// Reads the device's clock: see [`Executable::clock`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn clock(&mut self) -> Result<Option<ClockReading>> {
        self.executable.clock()
    }

    /// Runs what follows the module, so that outputs are again those of the whole program.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(mut self) -> Result<()> {
        self.run_steps(self.steps.end..self.all_steps)
    }

    fn run_steps(&mut self, steps: Range<usize>) -> Result<()> {
        let memory = self.cache.as_mut().map(|cache| cache.memory.as_mut());
        self.executable.run(steps, self.inputs, memory)
    }
}
