//! A program on the device: ranges of it that run, marks in time, values to and fro.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::driver::{CudaError, DeviceBuffer, Event, Graph, PinnedBuffer};
use joulewise_kernels::format::bytes_to_f32;
use joulewise_kernels::sampling::Draw;

use super::memory::{Memory, element_bytes};
use super::sampling::DrawBuffers;
use super::{CudaCache, GraphKey, Tables};
use crate::backend::{ClockReading, Executable, Mark, StepInputs};
use crate::error::{EngineError, Result};
use crate::kv_cache::CacheMemory;
use crate::observer::ValueReader;
use crate::op::ValueId;
use crate::program::Program;

/// A range of steps that was run before.
enum Captured {
    /// Once, launch by launch.
    Once,
    /// More often: as a graph.
    Graph(Graph),
}

pub(super) struct CudaExecutable {
    memory: Memory,
    graphs: HashMap<GraphKey, Captured>,
    events: Vec<Event>,
    /// Marks taken so far; each stands for an event, in turns.
    marks: u64,
    read_back: PinnedBuffer<u8>,
    /// What was read last.
    values: Vec<f32>,
    draws: DrawBuffers,
    clock: (DeviceBuffer<u64>, PinnedBuffer<u64>),
}

impl CudaExecutable {
    pub(super) fn new(tables: Arc<Tables>, program: Arc<Program>) -> Result<Self> {
        let context = tables.kernels.context().clone();
        let output = program.shape(program.graph().output);
        let count = 2 * program.steps().len() + 64;
        let events = (0..count).map(|_| Event::new(&context)).collect::<std::result::Result<Vec<_>, _>>();
        Ok(CudaExecutable {
            graphs: HashMap::new(),
            events: events.map_err(KernelError::from)?,
            marks: 0,
            read_back: PinnedBuffer::zeros(&context, output.0 * output.1 * size_of::<f32>())
                .map_err(KernelError::from)?,
            values: Vec::new(),
            draws: DrawBuffers::new(&context, output.0)?,
            clock: (
                DeviceBuffer::zeros(&context, 2).map_err(KernelError::from)?,
                PinnedBuffer::zeros(&context, 2).map_err(KernelError::from)?,
            ),
            memory: Memory::new(tables, program)?,
        })
    }
}

impl Executable for CudaExecutable {
    fn run(
        &mut self,
        steps: Range<usize>,
        inputs: &StepInputs,
        cache: Option<&mut dyn CacheMemory>,
    ) -> Result<()> {
        self.run_all(&[steps], inputs, cache)
    }

    fn run_all(
        &mut self,
        stretches: &[Range<usize>],
        inputs: &StepInputs,
        cache: Option<&mut dyn CacheMemory>,
    ) -> Result<()> {
        let cache = match cache {
            None => None,
            Some(memory) => Some(own(memory)?),
        };
        let CudaExecutable { memory, graphs, .. } = self;
        let tokens = memory.program.key().tokens;
        if let Some(cache) = cache
            && let Some(start) =
                inputs.kv_start.iter().find(|start| **start as usize + tokens > cache.shape.capacity)
        {
            let (needed, limit) = (*start as usize + tokens, cache.shape.capacity);
            return Err(EngineError::ContextOverflow { needed, limit });
        }
        let tables = memory.tables.clone();
        let _submitting = tables.submitting.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = tables.kernels.stream();
        memory.inputs.set(stream, inputs)?;
        let has_mask = !inputs.mask.is_empty();
        let submit = || {
            let mut stretches = stretches.iter();
            stretches.try_for_each(|steps| memory.submit(steps.clone(), cache, has_mask))
        };
        let id = cache.map_or(0, |cache| cache.id);
        let key = GraphKey { stretches: stretches.to_vec(), cache: id, has_mask };
        match graphs.get_mut(&key) {
            Some(Captured::Graph(graph)) => return Ok(graph.launch(stream).map_err(KernelError::from)?),
            None => {
                // Graphs of caches that are gone will never be asked for again.
                graphs.retain(|other, _| other.cache == key.cache);
                graphs.insert(key, Captured::Once);
                return submit();
            }
            Some(Captured::Once) => {}
        }
        let mut graph = stream.capture(|| submit().map_err(Stopped))?;
        graph.launch(stream).map_err(KernelError::from)?;
        graphs.insert(key, Captured::Graph(graph));
        Ok(())
    }

    fn done_at_once(
        &self,
        inputs: &StepInputs,
        cache: Option<&dyn CacheMemory>,
    ) -> Option<Vec<Range<usize>>> {
        let cache = cache.and_then(|memory| own(memory).ok());
        let all = 0..self.memory.program.steps().len();
        Some(
            self.memory
                .planned(all, cache, !inputs.mask.is_empty())
                .into_iter()
                .map(|(steps, _)| steps)
                .collect(),
        )
    }

    fn sample(&mut self, value: ValueId, draws: &[Draw]) -> Result<Vec<u32>> {
        let kernels = &self.memory.tables.kernels;
        self.draws.sample(kernels, self.memory.whole(value)?, draws)
    }

    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()> {
        let buffer = self.memory.buffer(value)?;
        let (rows, cols) = self.memory.program.shape(value);
        if data.len() != rows * cols {
            return Err(EngineError::BatchShape { what: "value", expected: rows * cols, got: data.len() });
        }
        // The copy does not wait for launches that may still read what was there.
        self.memory.tables.kernels.stream().synchronize().map_err(KernelError::from)?;
        let encoded = self.memory.formats[value.index()].encode(data, rows, cols)?;
        Ok(buffer.write(0, &encoded.data).map_err(KernelError::from)?)
    }

    fn mark(&mut self) -> Result<Mark> {
        let event = &self.events[(self.marks % self.events.len() as u64) as usize];
        self.memory.tables.kernels.stream().record(event).map_err(KernelError::from)?;
        self.marks += 1;
        Ok(Mark(self.marks - 1))
    }

    fn seconds_between(&mut self, from: Mark, to: Mark) -> Result<f64> {
        let count = self.events.len() as u64;
        let oldest = self.marks.saturating_sub(count);
        if from.0 < oldest || to.0 < oldest {
            return Err(EngineError::Unsupported("a time mark was kept for too long".to_owned()));
        }
        let event = |mark: Mark| &self.events[(mark.0 % count) as usize];
        if from.0 >= to.0 {
            return Ok(0.0);
        }
        Ok(event(to).seconds_since(event(from)).map_err(KernelError::from)?)
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        let (reading, read_back) = &mut self.clock;
        let kernels = &self.memory.tables.kernels;
        kernels.read_clock(reading)?;
        kernels.stream().download(reading, read_back, 2).map_err(KernelError::from)?;
        let [cycles, time_ns] = read_back.as_slice() else { return Ok(None) };
        Ok(Some(ClockReading { cycles: *cycles, time_ns: *time_ns }))
    }
}

/// The cache of this backend behind a cache.
fn own(memory: &dyn CacheMemory) -> Result<&CudaCache> {
    (memory as &dyn Any)
        .downcast_ref()
        .ok_or_else(|| EngineError::Unsupported("the cache was made by another backend".to_owned()))
}

/// An error of this crate on its way through [`Stream::capture`](joulewise_kernels::cuda::driver::Stream::capture).
struct Stopped(EngineError);

impl From<CudaError> for Stopped {
    fn from(error: CudaError) -> Self {
        Stopped(KernelError::from(error).into())
    }
}

impl From<Stopped> for EngineError {
    fn from(Stopped(error): Stopped) -> Self {
        error
    }
}

impl ValueReader for CudaExecutable {
    fn read(&mut self, value: ValueId) -> Result<&[f32]> {
        let memory = &self.memory;
        let buffer = memory.buffer(value)?;
        let (rows, cols) = memory.program.shape(value);
        let format = memory.formats[value.index()];
        let bytes = rows * cols * element_bytes(format);
        if self.read_back.as_slice().len() < bytes {
            self.read_back =
                PinnedBuffer::zeros(memory.tables.kernels.context(), bytes).map_err(KernelError::from)?;
        }
        let stream = memory.tables.kernels.stream();
        stream.download(buffer, &mut self.read_back, bytes).map_err(KernelError::from)?;
        self.values.resize(rows * cols, 0.0);
        bytes_to_f32(format, &self.read_back.as_slice()[..bytes], &mut self.values)?;
        Ok(&self.values)
    }
}
