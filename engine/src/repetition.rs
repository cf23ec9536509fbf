//! Modules run extra times behind each run of the whole program: how much a run costs more tells what they cost.
//!
//! The whole program stays exactly as it is, fused and scheduled as ever. The extra runs use a second copy of the
//! program ([`Program::for_repetition`]), of which one *sweep* runs a set of modules once each, in program order. A set
//! that holds the same module of every layer thus reads the weights of all layers before it comes back to the first:
//! they come from where they come from in the whole program, not from a cache that the module itself has filled. Sets that
//! are swept together are run as one, layer by layer: each module behind one of another set, as it stands in the program.
//! Activations, in turn, lie where a neighbour has just left them, as in the whole program: the same value of every layer
//! has one place. What sweeps compute leads nowhere.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{BackendModel, ClockReading, Executable, StepInputs};
use crate::error::{EngineError, Result};
use crate::kv_cache::KvCache;
use crate::module::ModuleId;
use crate::program::Program;

/// How often a set is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweeps {
    /// Index of the set.
    pub set: usize,
    /// How often.
    pub count: usize,
}

/// The copy of a program that sweeps run on.
pub(crate) struct SweepProgram {
    /// The program it is a copy of.
    whole: Arc<Program>,
    sets: Vec<Vec<ModuleId>>,
    program: Arc<Program>,
    executable: Box<dyn Executable>,
}

impl SweepProgram {
    pub(crate) fn prepare(
        model: &dyn BackendModel,
        whole: &Arc<Program>,
        sets: &[Vec<ModuleId>],
    ) -> Result<SweepProgram> {
        let tree = &whole.graph().modules;
        let stray = sets.iter().flatten().find(|module| whole.module_steps(**module).is_none());
        if let Some(module) = stray {
            return Err(EngineError::UnknownModule(tree.get(*module).path.clone()));
        }
        let program = Arc::new(whole.for_repetition(sets));
        let executable = model.prepare(program.clone())?;
        Ok(SweepProgram { whole: whole.clone(), sets: sets.to_vec(), program, executable })
    }

    /// Whether it is the copy of `whole` for these sets.
    pub(crate) fn fits(&self, whole: &Arc<Program>, sets: &[Vec<ModuleId>]) -> bool {
        Arc::ptr_eq(&self.whole, whole) && self.sets == sets
    }
}

/// A program with sets of modules to be swept; see [`crate::Session::repetition`].
pub struct Repetition<'a> {
    pub(crate) whole: &'a mut dyn Executable,
    pub(crate) sweeps: &'a mut SweepProgram,
    pub(crate) inputs: &'a StepInputs,
    pub(crate) cache: Option<&'a mut KvCache>,
    pub(crate) has_swept: bool,
}

impl Drop for Repetition<'_> {
    /// Sweeps compute with whatever neighbours left, so the last token's keys and values in the cache are none any more:
    /// the whole program writes them again.
    fn drop(&mut self) {
        let all_steps = self.sweeps.whole.steps().len();
        if let (true, Some(cache)) = (self.has_swept, self.cache.as_mut()) {
            // A device that fails now says so when it is asked for the next token.
            let _ = self.whole.run(0..all_steps, self.inputs, Some(cache.memory.as_mut()));
        }
    }
}

impl Repetition<'_> {
    /// Fills every value that sweeps read, module by module in the order of the whole program.
    pub(crate) fn fill(&mut self) -> Result<()> {
        let program = &self.sweeps.program;
        for cut in self.sweeps.whole.cuts(crate::Granularity::Module) {
            let steps = program.module_steps(cut.module);
            let steps = steps.ok_or_else(|| {
                EngineError::UnknownModule(program.graph().modules.get(cut.module).path.clone())
            })?;
            let memory = self.cache.as_mut().map(|cache| cache.memory.as_mut());
            self.sweeps.executable.run(steps, self.inputs, memory)?;
        }
        Ok(())
    }

    /// Runs the whole program and then the sweeps, `iterations` times over; sets that have sweeps left are swept together.
    /// Seconds it took.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        self.timed(iterations, true, sweeps)
    }

    /// Runs the sweeps alone, `iterations` times over. Seconds it took.
    ///
    /// # Errors
    /// When the device fails.
    pub fn rotate(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        self.timed(iterations, false, sweeps)
    }

    /// Reads the device's clock: see [`Executable::clock`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn clock(&mut self) -> Result<Option<ClockReading>> {
        self.whole.clock()
    }

    fn timed(&mut self, iterations: usize, with_whole: bool, sweeps: &[Sweeps]) -> Result<f64> {
        let stretches = self.stretches(sweeps)?;
        let from = self.whole.mark()?;
        let all_steps = self.sweeps.whole.steps().len();
        for _ in 0..iterations {
            if with_whole {
                let memory = self.cache.as_mut().map(|cache| cache.memory.as_mut());
                self.whole.run(0..all_steps, self.inputs, memory)?;
            }
            if !stretches.is_empty() {
                self.has_swept = true;
                let memory = self.cache.as_mut().map(|cache| cache.memory.as_mut());
                self.sweeps.executable.run_all(&stretches, self.inputs, memory)?;
            }
        }
        let to = self.whole.mark()?;
        self.whole.seconds_between(from, to)
    }

    /// The steps of all sweeps, in program order within each turn.
    fn stretches(&self, sweeps: &[Sweeps]) -> Result<Vec<Range<usize>>> {
        let most = sweeps.iter().map(|sweeps| sweeps.count).max().unwrap_or(0);
        let mut stretches = Vec::new();
        for turn in 0..most {
            let first = stretches.len();
            for Sweeps { set, .. } in sweeps.iter().filter(|sweeps| turn < sweeps.count) {
                let steps =
                    self.sweeps.program.set_steps(*set).ok_or_else(|| {
                        EngineError::Unsupported(format!("there is no set {set} of modules"))
                    })?;
                stretches.extend_from_slice(steps);
            }
            stretches[first..].sort_by_key(|steps: &Range<usize>| steps.start);
        }
        Ok(stretches)
    }
}
