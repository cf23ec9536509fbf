//! A program on the device.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use joulewise_kernels::KernelError;
use joulewise_kernels::args::InputRounding;
use joulewise_kernels::cuda::driver::{CudaError, DeviceBuffer, Event, Graph, PinnedBuffer};
use joulewise_kernels::cuda::{
    AttentionArgs, CacheWriteArgs, DecodeArgs, DecodeScratch, DeviceRows, EmbedArgs, FusedNorm, KeyValues,
    LinearArgs, LinearPart, LinearScratch, MeanPoolArgs, NormArgs, RopeArgs, RotateArgs, ScratchSize,
};
use joulewise_kernels::format::{Format, bytes_to_f32};

use super::formats::value_formats;
use super::inputs::Inputs;
use super::plan::{MOST_STEPS, Planner, Work};
use super::{CudaCache, GraphKey, Tables};
use crate::backend::{Executable, Mark, StepInputs};
use crate::error::{EngineError, Result};
use crate::kv_cache::CacheMemory;
use crate::observer::ValueReader;
use crate::op::{IndexInput, Op, Operand, RowChoice, ValueId};
use crate::program::{Phase, Program};

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
}

/// Everything a launch needs to know; unchanged while graphs are captured.
struct Memory {
    tables: Arc<Tables>,
    program: Arc<Program>,
    /// One buffer per slot of the arena.
    buffers: Vec<DeviceBuffer<u8>>,
    /// Buffer of each value.
    places: Vec<Option<usize>>,
    /// What its elements are.
    formats: Vec<Format>,
    inputs: Inputs,
    linear: LinearScratch,
    decode: Option<DecodeScratch>,
    /// ALiBi slopes of each step.
    slopes: HashMap<usize, DeviceBuffer<f32>>,
}

impl CudaExecutable {
    pub(super) fn new(tables: Arc<Tables>, program: Arc<Program>) -> Result<Self> {
        let context = tables.kernels.context().clone();
        let values = program.graph().values.len() as u32;
        let formats = value_formats(&program, tables.cache_format);
        let arena = if program.has_fixed_places() {
            program.arena().clone()
        } else {
            program.arena_with_room(MOST_STEPS)
        };
        let places: Vec<_> = (0..values)
            .map(|value| arena.slots[program.alias(ValueId(value)).index()].map(|slot| slot as usize))
            .collect();
        // The widest of the values that take turns in a slot.
        let mut sizes = vec![0; arena.sizes.len()];
        for value in 0..values {
            if let Some(slot) = places[value as usize] {
                let (rows, cols) = program.shape(ValueId(value));
                let size = rows * cols * element_bytes(formats[value as usize]);
                sizes[slot] = size.max(sizes[slot]);
            }
        }
        let zeros = |size: &usize| DeviceBuffer::zeros(&context, *size);
        let buffers = sizes.iter().map(zeros).collect::<std::result::Result<Vec<_>, _>>();
        let (mut scratch, mut heads, mut slopes) = (ScratchSize::default(), 0, HashMap::new());
        for (index, step) in program.steps().iter().enumerate() {
            match &step.op {
                Op::Linear { x, weight, .. } => {
                    let (w, rounding) = (tables.matrix(*weight)?, tables.roundings[step.module.0 as usize]);
                    let (rows, format) = (program.shape(x.value).0, formats[x.value.index()]);
                    scratch = scratch.max(tables.kernels.scratch_size(w, rows, format, rounding));
                }
                Op::Attention { spec, .. } => {
                    heads = heads.max(spec.heads * spec.head_dim);
                    if let Some(values) = &spec.alibi_slopes {
                        let values = DeviceBuffer::from_slice(&context, values).map_err(KernelError::from)?;
                        slopes.insert(index, values);
                    }
                }
                _ => {}
            }
        }
        let (key, cache) = (program.key(), program.graph().cache);
        let decode = match cache.filter(|_| key.phase == Phase::Decode) {
            Some(cache) => {
                let heads = heads / cache.head_dim.max(1);
                Some(DecodeScratch::new(&context, key.batch, heads, cache.head_dim, tables.positions)?)
            }
            None => None,
        };
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
            memory: Memory {
                inputs: Inputs::new(&context, key)?,
                buffers: buffers.map_err(KernelError::from)?,
                places,
                formats,
                linear: LinearScratch::new(&context, scratch)?,
                decode,
                slopes,
                program,
                tables,
            },
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
        let cache = match cache {
            None => None,
            Some(memory) => Some((memory as &mut dyn Any).downcast_mut::<CudaCache>().ok_or_else(|| {
                EngineError::Unsupported("the cache was made by another backend".to_owned())
            })?),
        };
        let cache = cache.as_deref();
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
        let key = GraphKey { steps: steps.clone(), cache: cache.map_or(0, |cache| cache.id), has_mask };
        match graphs.get_mut(&key) {
            Some(Captured::Graph(graph)) => return Ok(graph.launch(stream).map_err(KernelError::from)?),
            None => {
                // Graphs of caches that are gone will never be asked for again.
                graphs.retain(|other, _| other.cache == key.cache);
                graphs.insert(key, Captured::Once);
                return memory.submit(steps, cache, has_mask);
            }
            Some(Captured::Once) => {}
        }
        let mut graph = stream.capture(|| memory.submit(steps, cache, has_mask).map_err(Stopped))?;
        graph.launch(stream).map_err(KernelError::from)?;
        graphs.insert(key, Captured::Graph(graph));
        Ok(())
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

fn element_bytes(format: Format) -> usize {
    format.spec().code_bytes(1)
}

impl Memory {
    fn buffer(&self, value: ValueId) -> Result<&DeviceBuffer<u8>> {
        let place = self.places[value.index()].ok_or_else(|| {
            EngineError::Unsupported(format!("value {} is not computed by this program", value.0))
        })?;
        Ok(&self.buffers[place])
    }

    /// The columns an operand names.
    fn rows(&self, operand: &Operand) -> Result<DeviceRows<'_>> {
        let (rows, stride) = self.program.shape(operand.value);
        let data = self.buffer(operand.value)?;
        let format = self.formats[operand.value.index()];
        Ok(DeviceRows { data, format, offset: operand.offset, rows, cols: operand.cols, stride })
    }

    /// All of a value.
    fn whole(&self, value: ValueId) -> Result<DeviceRows<'_>> {
        let (rows, cols) = self.program.shape(value);
        let (data, format) = (self.buffer(value)?, self.formats[value.index()]);
        Ok(DeviceRows { data, format, offset: 0, rows, cols, stride: cols })
    }

    /// Submits steps launch by launch, to the device or into a graph.
    fn submit(&self, steps: Range<usize>, cache: Option<&CudaCache>, has_mask: bool) -> Result<()> {
        let kernels = &self.tables.kernels;
        let can_join = |step: usize, has_norm: bool| match self.op(step) {
            Op::Linear { x, weight, .. } => {
                let rows = self.program.shape(x.value).0;
                self.tables.matrix(*weight).is_ok_and(|matrix| kernels.can_join(matrix, rows, has_norm))
            }
            _ => false,
        };
        let are_alike = |a: usize, b: usize| match (self.op(a), self.op(b)) {
            (Op::Linear { weight, .. }, Op::Linear { weight: other, .. }) => {
                self.program.weight_format(*weight) == self.program.weight_format(*other)
                    && self.rounding(a) == self.rounding(b)
            }
            _ => false,
        };
        let can_rotate = |ropes: (usize, usize), write: usize| {
            cache.is_some_and(|cache| {
                self.rotation(ropes, write, cache).is_ok_and(|args| kernels.can_rotate_and_write(&args))
            })
        };
        let planner = Planner {
            program: &self.program,
            can_join: &can_join,
            are_alike: &are_alike,
            can_rotate: &can_rotate,
            share_memory: &|a, b| self.places[a.index()] == self.places[b.index()],
            has_cache: cache.is_some() && !has_mask,
        };
        for work in planner.plan(steps) {
            match work {
                Work::Single(step) => self.step(step, cache, has_mask)?,
                Work::Product { norm, linears, gate, activate, add } => {
                    self.product(norm, linears, gate, activate, add)?;
                }
                Work::Rotate { ropes, write } => {
                    let cache = cache.ok_or_else(|| self.misplanned(write))?;
                    kernels.rotate_and_write(&self.rotation(ropes, write, cache)?)?;
                }
                Work::Decode { ropes, write, attention } => self.decode(ropes, write, attention, cache)?,
            }
        }
        Ok(())
    }

    fn rounding(&self, step: usize) -> InputRounding {
        self.tables.roundings[self.program.steps()[step].module.0 as usize]
    }

    fn op(&self, step: usize) -> &Op {
        &self.program.steps()[step].op
    }

    /// What is added to a linear's result, and where the sum goes.
    fn sum(&self, add: usize, linear_y: ValueId) -> Result<(DeviceRows<'_>, ValueId)> {
        let Op::Add { a, b, y } = self.op(add) else { return Err(self.misplanned(add)) };
        let other = if self.program.alias(a.value) == self.program.alias(linear_y) { b } else { a };
        Ok((self.rows(other)?, *y))
    }

    fn misplanned(&self, step: usize) -> EngineError {
        EngineError::Unsupported(format!("step {step} cannot be fused as planned"))
    }

    fn product(
        &self,
        norm: Option<usize>,
        linears: Range<usize>,
        gate: Option<usize>,
        activate: Option<usize>,
        add: Option<usize>,
    ) -> Result<()> {
        let (first, mut parts) = (linears.start, Vec::with_capacity(3));
        let mut last = None;
        for step in linears {
            let Op::Linear { x, weight, bias, y } = self.op(step) else { return Err(self.misplanned(step)) };
            last = Some((*x, *y));
            let bias = self.tables.optional_vector(*bias)?;
            parts.push(LinearPart { w: self.tables.matrix(*weight)?, bias, y: self.whole(*y)? });
        }
        let Some((mut x, mut y)) = last else { return Err(self.misplanned(first)) };
        let mut fused_norm = None;
        if let Some(Op::Norm { kind, x: source, weight, bias, eps, .. }) = norm.map(|step| self.op(step)) {
            x = *source;
            fused_norm = Some(FusedNorm {
                kind: *kind,
                weight: self.tables.vector(*weight)?,
                bias: self.tables.optional_vector(*bias)?,
                eps: *eps,
            });
        }
        let (mut gate_kind, mut activation, mut residual) = (None, None, None);
        if let Some(Op::Gate { kind, y: out, .. }) = gate.map(|step| self.op(step)) {
            gate_kind = Some(*kind);
            parts[0].y = self.whole(*out)?;
        }
        if let Some(Op::Activate { kind, y: out, .. }) = activate.map(|step| self.op(step)) {
            (activation, y) = (Some(*kind), *out);
            parts[0].y = self.whole(y)?;
        }
        if let Some(add) = add {
            let (rows, out) = self.sum(add, y)?;
            residual = Some(rows);
            parts[0].y = self.whole(out)?;
        }
        Ok(self.tables.kernels.linear(&LinearArgs {
            x: self.rows(&x)?,
            norm: fused_norm,
            rounding: self.rounding(first),
            is_rounded: false,
            parts: &parts,
            gate: gate_kind,
            activation,
            residual,
            scratch: &self.linear,
        })?)
    }

    fn rotation<'a>(
        &'a self,
        ropes: (usize, usize),
        write: usize,
        cache: &'a CudaCache,
    ) -> Result<RotateArgs<'a>> {
        let (Op::Rope { x: q, table, y, .. }, Op::Rope { x: k, .. }, Op::CacheWrite { layer, v, .. }) =
            (self.op(ropes.0), self.op(ropes.1), self.op(write))
        else {
            return Err(self.misplanned(write));
        };
        Ok(RotateArgs {
            q: self.rows(q)?,
            k: self.rows(k)?,
            v: self.rows(v)?,
            table: &self.tables.ropes[table.0 as usize],
            positions: &self.inputs.positions.device,
            tokens: self.program.key().tokens,
            kv_start: &self.inputs.kv_start.device,
            cache: cache.layer(*layer),
            y: self.whole(*y)?,
        })
    }

    fn decode(
        &self,
        ropes: Option<(usize, usize)>,
        write: Option<usize>,
        attention: usize,
        cache: Option<&CudaCache>,
    ) -> Result<()> {
        let (Op::Attention { q, layer: Some(layer), spec, y, .. }, Some(cache), Some(scratch)) =
            (self.op(attention), cache, &self.decode)
        else {
            return Err(self.misplanned(attention));
        };
        let mut q = *q;
        let mut new = match write.map(|step| self.op(step)) {
            Some(Op::CacheWrite { k, v, .. }) => Some((*k, *v)),
            _ => None,
        };
        let mut rope = None;
        if let Some((rope_q, rope_k)) = ropes {
            let (Op::Rope { x, table, .. }, Op::Rope { x: k, .. }) = (self.op(rope_q), self.op(rope_k))
            else {
                return Err(self.misplanned(rope_q));
            };
            q = *x;
            new = new.map(|(_, v)| (*k, v));
            rope = Some((&self.tables.ropes[table.0 as usize], &self.inputs.positions.device));
        }
        let new = new.map(|(k, v)| Ok::<_, EngineError>((self.rows(&k)?, self.rows(&v)?))).transpose()?;
        Ok(self.tables.kernels.attention_decode(&DecodeArgs {
            q: self.rows(&q)?,
            new,
            rope,
            cache: cache.layer(*layer),
            heads: spec.heads,
            kv_start: &self.inputs.kv_start.device,
            scale: spec.scale,
            window: spec.window,
            slopes: self.slopes.get(&attention),
            scratch,
            y: self.whole(*y)?,
        })?)
    }

    fn step(&self, step: usize, cache: Option<&CudaCache>, has_mask: bool) -> Result<()> {
        let Memory { tables, program, inputs, .. } = self;
        let kernels = &tables.kernels;
        let key = program.key();
        let mask = has_mask.then_some(&inputs.mask.device);
        match self.op(step) {
            Op::Embed { table, index, y } => {
                let ids = match index {
                    IndexInput::TokenIds => &inputs.token_ids.device,
                    IndexInput::Positions => &inputs.positions.device,
                    IndexInput::TokenTypes => &inputs.token_types.device,
                };
                kernels.embed(&EmbedArgs { table: tables.table(*table)?, ids, y: self.whole(*y)? })?;
            }
            Op::Linear { .. } => self.product(None, step..step + 1, None, None, None)?,
            Op::Norm { kind, x, weight, bias, eps, y } => kernels.norm(&NormArgs {
                kind: *kind,
                x: self.rows(x)?,
                weight: tables.vector(*weight)?,
                bias: tables.optional_vector(*bias)?,
                eps: *eps,
                y: self.whole(*y)?,
            })?,
            Op::Activate { kind, x, y } => kernels.activate(*kind, self.rows(x)?, self.whole(*y)?)?,
            Op::Gate { kind, gate, up, y } => {
                kernels.gate(*kind, self.rows(gate)?, self.rows(up)?, self.whole(*y)?)?;
            }
            Op::Add { a, b, y } => kernels.add(self.rows(a)?, self.rows(b)?, self.whole(*y)?)?,
            Op::Rope { x, head_dim, table, y } => kernels.rope(&RopeArgs {
                x: self.rows(x)?,
                head_dim: *head_dim,
                table: &tables.ropes[table.0 as usize],
                positions: &inputs.positions.device,
                y: self.whole(*y)?,
            })?,
            Op::CacheWrite { layer, k, v } => {
                let Some(cache) = cache else {
                    return Err(EngineError::Unsupported("this program needs a cache".to_owned()));
                };
                kernels.cache_write(&CacheWriteArgs {
                    k: self.rows(k)?,
                    v: self.rows(v)?,
                    tokens: key.tokens,
                    kv_start: &inputs.kv_start.device,
                    cache: cache.layer(*layer),
                })?;
            }
            Op::Attention { q, k, v, layer, spec, y } => {
                let kv = match (layer, cache) {
                    (Some(layer), Some(cache)) => KeyValues::Cached(cache.layer(*layer)),
                    _ => KeyValues::Projected { k: self.rows(k)?, v: self.rows(v)? },
                };
                kernels.attention(&AttentionArgs {
                    q: self.rows(q)?,
                    kv,
                    tokens: key.tokens,
                    heads: spec.heads,
                    kv_heads: spec.kv_heads,
                    head_dim: spec.head_dim,
                    kv_start: &inputs.kv_start.device,
                    scale: spec.scale,
                    causal: spec.causal,
                    window: spec.window,
                    slopes: self.slopes.get(&step),
                    mask,
                    y: self.whole(*y)?,
                })?;
            }
            Op::SelectRows { x, which, y } => {
                let indices = match which {
                    RowChoice::First => &inputs.first_rows.device,
                    RowChoice::Logits => &inputs.last_rows.device,
                };
                kernels.select_rows(self.rows(x)?, indices, self.whole(*y)?)?;
            }
            Op::MeanPool { x, y } => {
                let (x, y) = (self.rows(x)?, self.whole(*y)?);
                kernels.mean_pool(&MeanPoolArgs { x, tokens: key.tokens, mask, y })?;
            }
        }
        Ok(())
    }
}
