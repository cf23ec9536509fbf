//! What a device has to do: keep weights and a cache, run a range of steps, take a time mark. Nothing else.

pub(crate) mod cpu;
pub(crate) mod cuda;

use std::ops::Range;
use std::sync::Arc;

use joulewise_kernels::format::Format;
use joulewise_kernels::sampling::{Draw, sample};

use crate::error::Result;
use crate::graph::ModelGraph;
use crate::kv_cache::{CacheMemory, CacheShape};
use crate::observer::ValueReader;
use crate::op::ValueId;
use crate::precision::PrecisionPlan;
use crate::program::Program;
use crate::weight::{WeightId, WeightSource};

/// How loading reports its progress: weights done and weights in all.
pub type LoadProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// A device and its kernels.
pub trait Backend: Send + Sync {
    /// Name of the device and the path its kernels take, e.g. `cpu avx512, 2 threads`.
    fn describe(&self) -> String;

    /// Reads, converts and packs every weight of a model.
    ///
    /// `positions` is how many positions rotary tables have to cover.
    ///
    /// # Errors
    /// Those of the source, and [`crate::EngineError::TensorShape`].
    fn load(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        positions: usize,
        progress: LoadProgress<'_>,
    ) -> Result<Arc<dyn BackendModel>>;
}

/// A model whose weights are on a device.
pub trait BackendModel: Send + Sync {
    /// Bytes of the weights as they are kept, padding included.
    fn weight_bytes(&self) -> usize;

    /// The same model with `weights` read again for `plan`; all others, and what else a model has, are shared.
    ///
    /// # Errors
    /// As [`Backend::load`].
    fn reload(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        weights: &[WeightId],
    ) -> Result<Arc<dyn BackendModel>>;

    /// The format that a cache is kept in when `wanted` is asked for; `None`: that of the activations.
    ///
    /// # Errors
    /// [`crate::EngineError::Unsupported`] for a format that this device does not keep caches in.
    fn cache_format(&self, wanted: Option<Format>) -> Result<Format>;

    /// The format that each value of a program's graph is kept in. Unless a device says more, all are in that of the
    /// activations.
    fn value_formats(&self, program: &Program) -> Vec<Format> {
        let format = self.cache_format(None).unwrap_or(Format::F32);
        vec![format; program.graph().values.len()]
    }

    /// Memory for keys and values, in a format that [`BackendModel::cache_format`] gave.
    ///
    /// # Errors
    /// When the device has no room for it.
    fn allocate_cache(&self, shape: CacheShape) -> Result<Box<dyn CacheMemory>>;

    /// Makes a program ready to run: all its memory is allocated here, none later.
    ///
    /// # Errors
    /// When the device refuses the program.
    fn prepare(&self, program: Arc<Program>) -> Result<Box<dyn Executable>>;
}

/// A point in time on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What varies from run to run of one program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepInputs {
    /// Token ids `[batch * tokens]`.
    pub token_ids: Vec<u32>,
    /// Position of each token `[batch * tokens]`.
    pub positions: Vec<u32>,
    /// Segment of each token `[batch * tokens]`.
    pub token_types: Vec<u32>,
    /// Visible tokens `[batch, tokens]`; empty when all are.
    pub mask: Vec<u8>,
    /// Tokens in the cache before this run `[batch]`.
    pub kv_start: Vec<u32>,
    /// First row of each sequence `[batch]`.
    pub first_rows: Vec<u32>,
    /// Row of each sequence's last visible token `[batch]`.
    pub last_rows: Vec<u32>,
}

/// A program on a device.
pub trait Executable: ValueReader + Send {
    /// Runs some of the steps, in order. Does not have to wait for them.
    ///
    /// # Errors
    /// When an index is out of range, or the device fails.
    fn run(
        &mut self,
        steps: Range<usize>,
        inputs: &StepInputs,
        cache: Option<&mut dyn CacheMemory>,
    ) -> Result<()>;

    /// Runs several stretches of steps, one behind the other. A device that submits work in pieces can make one piece of
    /// all of them.
    ///
    /// # Errors
    /// As [`Executable::run`].
    fn run_all(
        &mut self,
        stretches: &[Range<usize>],
        inputs: &StepInputs,
        mut cache: Option<&mut dyn CacheMemory>,
    ) -> Result<()> {
        for steps in stretches {
            let cache = cache.as_mut().map(|cache| &mut **cache as &mut dyn CacheMemory);
            self.run(steps.clone(), inputs, cache)?;
        }
        Ok(())
    }

    /// The steps that are done at once when the whole program is run, in order; steps in none of them are done by
    /// themselves. `None`: the device does not say.
    fn done_at_once(
        &self,
        inputs: &StepInputs,
        cache: Option<&dyn CacheMemory>,
    ) -> Option<Vec<Range<usize>>> {
        let _ = (inputs, cache);
        None
    }

    /// Draws a token from each row of a value, which has as many rows as there are draws.
    ///
    /// # Errors
    /// As [`ValueReader::read`].
    fn sample(&mut self, value: ValueId, draws: &[Draw]) -> Result<Vec<u32>> {
        let (logits, mut candidates) = (self.read(value)?, Vec::new());
        let rows = logits.chunks((logits.len() / draws.len().max(1)).max(1));
        Ok(rows.zip(draws).map(|(logits, draw)| sample(logits, draw, &mut candidates)).collect())
    }

    /// Puts a value where later steps read it, as if a step had written it: `data [rows, cols]`, row-major.
    ///
    /// # Errors
    /// When this program never writes the value, or `data` has another size.
    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()>;

    /// The point in time at which everything submitted so far is done.
    ///
    /// # Errors
    /// When the device fails.
    fn mark(&mut self) -> Result<Mark>;

    /// Seconds between two marks; waits for the later one.
    ///
    /// # Errors
    /// When the device fails.
    fn seconds_between(&mut self, from: Mark, to: Mark) -> Result<f64>;

    /// Reads the device's clock, behind everything submitted so far, and waits for that. `None` where none can be read.
    ///
    /// # Errors
    /// When the device fails.
    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(None)
    }
}

/// What the clock of a device has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Its cycles.
    pub cycles: u64,
    /// Nanoseconds, by a timer that does not change its pace.
    pub time_ns: u64,
}

impl ClockReading {
    /// The mean clock since an earlier reading.
    pub fn mean_hz_since(self, earlier: ClockReading) -> Option<f64> {
        let duration_ns = self.time_ns.checked_sub(earlier.time_ns).filter(|ns| *ns > 0)?;
        Some(self.cycles.checked_sub(earlier.cycles)? as f64 / (duration_ns as f64 * 1e-9))
    }
}
