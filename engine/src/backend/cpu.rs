//! The CPU backend: steps are matched one by one onto the kernels of the best instruction set here.

mod joined;
mod linear;

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use joulewise_kernels::args::{
    Activate, Add, Attention, AttentionProducts, CacheWrite, Embed, Gate, Heads, HeadsShape, HeadsView,
    InputRounding, Mask, MeanPool, Norm, Rope, Rows, RowsMut, SelectRows,
};
use joulewise_kernels::cpu::{
    Buffer, CpuKernels, HeadCache, InputKind, PackedMatrix, RoundedInput, ThreadPool,
};
use joulewise_kernels::format::Format;

use linear::LinearPlan;

use super::{Backend, BackendModel, Executable, LoadProgress, Mark, StepInputs};
use crate::error::{EngineError, Result};
use crate::graph::{ModelGraph, Step};
use crate::kv_cache::{CacheMemory, CacheShape};
use crate::observer::ValueReader;
use crate::op::{IndexInput, Op, Operand, RowChoice, ValueId};
use crate::precision::PrecisionPlan;
use crate::program::Program;
use crate::rope::RopeTable;
use crate::weight::{WeightId, WeightReader, WeightShape, WeightSource};

/// The processor this runs on.
#[derive(Clone)]
pub struct CpuBackend {
    kernels: CpuKernels,
}

impl CpuBackend {
    /// The best kernels for this processor on `threads` threads.
    pub fn new(threads: usize) -> Self {
        CpuBackend { kernels: CpuKernels::best(Arc::new(ThreadPool::new(threads))) }
    }

    /// As many threads as the process may use.
    pub fn with_all_cores() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Kernels of the caller's choice.
    pub fn with_kernels(kernels: CpuKernels) -> Self {
        CpuBackend { kernels }
    }
}

impl Backend for CpuBackend {
    fn describe(&self) -> String {
        let threads = self.kernels.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu {}, {threads} thread{plural}", self.kernels.isa().name())
    }

    fn load(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        positions: usize,
        progress: LoadProgress<'_>,
    ) -> Result<Arc<dyn BackendModel>> {
        let formats = plan.weight_formats(graph);
        let roundings = plan.input_roundings(graph)?;
        let loaded: Vec<Mutex<Option<Result<CpuWeight>>>> =
            graph.weights.iter().map(|_| Mutex::new(None)).collect();
        let done = AtomicUsize::new(0);
        // Weights are independent of each other, and converting them is bound by one core, not by memory.
        self.kernels.pool().run(graph.weights.len(), &|index| {
            let weight = CpuWeight::load(&self.kernels, graph, index, formats[index], source);
            *loaded[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(weight);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, graph.weights.len());
        });
        let weights = loaded
            .into_iter()
            .zip(&graph.weights)
            .map(|(slot, spec)| {
                let weight = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
                weight.unwrap_or_else(|| Err(EngineError::MissingTensor(spec.name.clone()))).map(Arc::new)
            })
            .collect::<Result<Vec<_>>>()?;
        let ropes = graph.ropes.iter().map(|spec| spec.table(positions)).collect::<Vec<_>>().into();
        let attentions = plan.attention_products(graph);
        let tables = Tables { kernels: self.kernels.clone(), weights, roundings, attentions, ropes };
        Ok(Arc::new(CpuModel(Arc::new(tables))))
    }
}

enum CpuWeight {
    Matrix(PackedMatrix),
    Vector(Vec<f32>),
}

impl CpuWeight {
    fn load(
        kernels: &CpuKernels,
        graph: &ModelGraph,
        index: usize,
        format: Format,
        source: &dyn WeightSource,
    ) -> Result<CpuWeight> {
        let spec = &graph.weights[index];
        let mut reader = WeightReader::open(source, spec)?;
        match spec.shape {
            WeightShape::Matrix { n, k } => {
                let encoded = reader.encoded(format)?;
                let mut read = |rows, out: &mut [f32]| reader.read_rows(rows, out);
                let packed = match encoded {
                    Some(encoded) => kernels.pack_encoded(&encoded)?,
                    None if graph.is_multiplied(index) => kernels.pack(format, n, k, &mut read)?,
                    None => kernels.pack_table(format, n, k, &mut read)?,
                };
                Ok(CpuWeight::Matrix(packed))
            }
            WeightShape::Vector { n } => {
                let mut values = vec![0.0; n];
                reader.read_rows(0..n, &mut values)?;
                Ok(CpuWeight::Vector(values))
            }
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            CpuWeight::Matrix(matrix) => matrix.size_bytes(),
            CpuWeight::Vector(values) => size_of_val(values.as_slice()),
        }
    }
}

/// What all programs of one model share.
struct Tables {
    kernels: CpuKernels,
    weights: Vec<Arc<CpuWeight>>,
    /// How the inputs of each module's linear are rounded.
    roundings: Arc<[InputRounding]>,
    /// What each module's attention may round.
    attentions: Arc<[AttentionProducts]>,
    ropes: Arc<[RopeTable]>,
}

impl Tables {
    fn matrix(&self, id: WeightId) -> Result<&PackedMatrix> {
        match &*self.weights[id.index()] {
            CpuWeight::Matrix(matrix) => Ok(matrix),
            CpuWeight::Vector(_) => Err(EngineError::Unsupported(format!("weight {} is not a matrix", id.0))),
        }
    }

    fn vector(&self, id: WeightId) -> Result<&[f32]> {
        match &*self.weights[id.index()] {
            CpuWeight::Vector(values) => Ok(values),
            CpuWeight::Matrix(_) => Err(EngineError::Unsupported(format!("weight {} is not a vector", id.0))),
        }
    }
}

struct CpuModel(Arc<Tables>);

impl BackendModel for CpuModel {
    fn weight_bytes(&self) -> usize {
        self.0.weights.iter().map(|weight| weight.size_bytes()).sum()
    }

    fn reload(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        weights: &[WeightId],
    ) -> Result<Arc<dyn BackendModel>> {
        let Tables { kernels, weights: shared, ropes, .. } = &*self.0;
        let mut all = shared.clone();
        let formats = plan.weight_formats(graph);
        for id in weights {
            let index = id.index();
            all[index] = Arc::new(CpuWeight::load(kernels, graph, index, formats[index], source)?);
        }
        Ok(Arc::new(CpuModel(Arc::new(Tables {
            kernels: kernels.clone(),
            weights: all,
            roundings: plan.input_roundings(graph)?,
            attentions: plan.attention_products(graph),
            ropes: ropes.clone(),
        }))))
    }

    fn cache_format(&self, wanted: Option<Format>) -> Result<Format> {
        let format = wanted.unwrap_or(Format::F32);
        if HeadCache::FORMATS.contains(&format) {
            return Ok(format);
        }
        let known = HeadCache::FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        let message = format!("a key-value cache on the CPU is kept in one of {known}, not in {format}");
        Err(EngineError::Unsupported(message))
    }

    fn allocate_cache(&self, shape: CacheShape) -> Result<Box<dyn CacheMemory>> {
        let CacheShape { layers, batch, kv_heads, capacity, head_dim, format } = shape;
        let heads = HeadsShape { batch, heads: kv_heads, capacity, head_dim };
        let layer = || Ok((HeadCache::zeroed(format, heads)?, HeadCache::zeroed(format, heads)?));
        Ok(Box::new(CpuCache { layers: (0..layers).map(|_| layer()).collect::<Result<_>>()? }))
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Box<dyn Executable>> {
        let slots = program.arena().sizes.iter().map(|size| Buffer::zeroed(*size));
        let slots = slots.collect::<std::result::Result<_, _>>()?;
        let linears = (0..program.steps().len()).map(|index| LinearPlan::new(&program, index)).collect();
        Ok(Box::new(CpuExecutable {
            tables: self.0.clone(),
            program,
            linears,
            slots,
            rounded: RoundedInput::default(),
            other_rounded: RoundedInput::default(),
            rounded_value: None,
            epoch: Instant::now(),
        }))
    }
}

/// Keys and values of each layer.
struct CpuCache {
    layers: Vec<(HeadCache, HeadCache)>,
}

impl CacheMemory for CpuCache {
    fn size_bytes(&self) -> usize {
        self.layers.iter().map(|(keys, values)| keys.size_bytes() + values.size_bytes()).sum()
    }
}

struct CpuExecutable {
    tables: Arc<Tables>,
    program: Arc<Program>,
    /// For each step what may be done together with it, if it is a linear.
    linears: Vec<Option<LinearPlan>>,
    /// One buffer per arena slot. The slot a step writes is taken out while it runs, which is sound because no step
    /// writes where it reads.
    slots: Vec<Buffer>,
    /// Inputs of linears, rounded.
    rounded: RoundedInput,
    /// Room for those that a linear makes of others.
    other_rounded: RoundedInput,
    /// What `rounded` holds: a value that this range has computed or rounded.
    rounded_value: Option<ValueId>,
    epoch: Instant,
}

impl Executable for CpuExecutable {
    fn run(
        &mut self,
        steps: Range<usize>,
        inputs: &StepInputs,
        cache: Option<&mut dyn CacheMemory>,
    ) -> Result<()> {
        let mut cache = match cache {
            None => None,
            Some(memory) => Some((memory as &mut dyn Any).downcast_mut::<CpuCache>().ok_or_else(|| {
                EngineError::Unsupported("the cache was made by another backend".to_owned())
            })?),
        };
        let program = self.program.clone();
        self.rounded_value = None;
        let mut index = steps.start;
        while index < steps.end {
            let step = &program.steps()[index];
            if matches!(step.op, Op::Linear { .. }) {
                index = self.linear(index, steps.end)?;
                continue;
            }
            index += 1;
            let Some(y) = step.op.output() else {
                self.write_cache(&step.op, inputs, cache.as_deref_mut())?;
                continue;
            };
            let slot = program.slot(y).ok_or_else(|| unwritten(y))?;
            // A norm rounds for the linear behind it, if the range has one.
            let is_norm = matches!(step.op, Op::Norm { .. }) && index < steps.end;
            let wanted = if is_norm { self.input_kind(index, y) } else { None };
            let mut rounded = std::mem::take(&mut self.rounded);
            let mut out = std::mem::take(&mut self.slots[slot]);
            let (rows, cols) = program.shape(y);
            let target = RowsMut { data: &mut out[..rows * cols], rows, cols };
            let for_linear = wanted.map(|kind| (kind, &mut rounded));
            let result = self.compute(step, target, for_linear, inputs, cache.as_deref());
            (self.slots[slot], self.rounded) = (out, rounded);
            if wanted.is_some() {
                self.rounded_value = Some(program.alias(y));
            }
            result?;
        }
        Ok(())
    }

    fn done_at_once(&self, _: &StepInputs, _: Option<&dyn CacheMemory>) -> Option<Vec<Range<usize>>> {
        let end = self.program.steps().len();
        let (mut at_once, mut index) = (Vec::new(), 0);
        while index < end {
            let joined = self.joined(index, end);
            let next =
                if joined.len() > 1 { Some(joined.end) } else { self.epilogue(index, end).map(|e| e.next) };
            at_once.extend(next.map(|next| index..next));
            index = next.unwrap_or(index + 1);
        }
        Some(at_once)
    }

    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()> {
        let slot = self.program.slot(value).ok_or_else(|| unwritten(value))?;
        let (rows, cols) = self.program.shape(value);
        if data.len() != rows * cols {
            return Err(EngineError::BatchShape { what: "value", expected: rows * cols, got: data.len() });
        }
        self.slots[slot][..rows * cols].copy_from_slice(data);
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark> {
        Ok(Mark(self.epoch.elapsed().as_nanos() as u64))
    }

    fn seconds_between(&mut self, from: Mark, to: Mark) -> Result<f64> {
        Ok(to.0.saturating_sub(from.0) as f64 * 1e-9)
    }
}

impl ValueReader for CpuExecutable {
    fn read(&mut self, value: ValueId) -> Result<&[f32]> {
        let slot = self.program.slot(value).ok_or_else(|| unwritten(value))?;
        let (rows, cols) = self.program.shape(value);
        Ok(&self.slots[slot][..rows * cols])
    }
}

fn unwritten(value: ValueId) -> EngineError {
    EngineError::Unsupported(format!("value {} is not computed by this program", value.0))
}

fn not_a_linear() -> EngineError {
    EngineError::Unsupported("this step is no linear".to_owned())
}

impl CpuExecutable {
    /// The columns an operand names.
    fn rows(&self, operand: &Operand) -> Result<Rows<'_>> {
        let slot = self.program.slot(operand.value).ok_or_else(|| unwritten(operand.value))?;
        let (rows, stride) = self.program.shape(operand.value);
        Ok(Rows { data: &self.slots[slot][operand.offset..rows * stride], rows, cols: operand.cols, stride })
    }

    /// An operand seen head by head, without a cache.
    fn heads(&self, operand: &Operand, head_dim: usize) -> Result<HeadsView<'_>> {
        let rows = self.rows(operand)?;
        Ok(HeadsView {
            data: rows.data,
            batch_stride: self.program.key().tokens * rows.stride,
            head_stride: head_dim,
            token_stride: rows.stride,
        })
    }

    fn mask<'a>(&self, inputs: &'a StepInputs) -> Option<Mask<'a>> {
        (!inputs.mask.is_empty()).then_some(Mask { visible: &inputs.mask, stride: self.program.key().tokens })
    }

    fn write_cache(&self, op: &Op, inputs: &StepInputs, cache: Option<&mut CpuCache>) -> Result<()> {
        let (Op::CacheWrite { layer, k, v }, Some(cache)) = (op, cache) else {
            return Err(EngineError::Unsupported("this program needs a cache".to_owned()));
        };
        let (tokens, kv_start) = (self.program.key().tokens, inputs.kv_start.as_slice());
        let (keys, values) = &mut cache.layers[*layer];
        for (operand, cache) in [(k, keys), (v, values)] {
            self.tables.kernels.cache_write(CacheWrite {
                x: self.rows(operand)?,
                tokens,
                kv_start,
                cache,
            })?;
        }
        Ok(())
    }

    fn compute(
        &self,
        step: &Step,
        y: RowsMut<'_>,
        for_linear: Option<(InputKind, &mut RoundedInput)>,
        inputs: &StepInputs,
        cache: Option<&CpuCache>,
    ) -> Result<()> {
        let tables = &*self.tables;
        let kernels = &tables.kernels;
        let key = self.program.key();
        match &step.op {
            Op::Embed { table, index, .. } => {
                let ids = match index {
                    IndexInput::TokenIds => &inputs.token_ids,
                    IndexInput::Positions => &inputs.positions,
                    IndexInput::TokenTypes => &inputs.token_types,
                };
                kernels.embed(Embed { table: tables.matrix(*table)?, ids, y })?;
            }
            Op::Linear { .. } => return Err(EngineError::Unsupported("a linear is run as one".to_owned())),
            Op::Norm { kind, x, weight, bias, eps, .. } => {
                let bias = bias.map(|bias| tables.vector(bias)).transpose()?;
                let weight = tables.vector(*weight)?;
                let norm = Norm { kind: *kind, x: self.rows(x)?, weight, bias, eps: *eps, y };
                match for_linear {
                    Some((kind, rounded)) => kernels.norm_rounded(norm, kind, rounded)?,
                    None => kernels.norm(norm)?,
                }
            }
            Op::Activate { kind, x, .. } => {
                kernels.activate(Activate { kind: *kind, x: self.rows(x)?, y })?
            }
            Op::Gate { kind, gate, up, .. } => {
                kernels.gate(Gate { kind: *kind, gate: self.rows(gate)?, up: self.rows(up)?, y })?;
            }
            Op::Add { a, b, .. } => kernels.add(Add { a: self.rows(a)?, b: self.rows(b)?, y })?,
            Op::Rope { x, head_dim, table, .. } => {
                let RopeTable { cos, sin, rotary } = &tables.ropes[table.0 as usize];
                kernels.rope(Rope {
                    x: self.rows(x)?,
                    heads: x.cols / head_dim,
                    head_dim: *head_dim,
                    cos,
                    sin,
                    rotary: *rotary,
                    positions: &inputs.positions,
                    y,
                })?;
            }
            Op::Attention { q, k, v, layer, spec, .. } => {
                let (k, v): (Heads<'_>, Heads<'_>) = match (layer, cache) {
                    (Some(layer), Some(cache)) => {
                        let (keys, values) = &cache.layers[*layer];
                        (keys.into(), values.into())
                    }
                    _ => (self.heads(k, spec.head_dim)?.into(), self.heads(v, spec.head_dim)?.into()),
                };
                kernels.attention(Attention {
                    q: self.rows(q)?,
                    k,
                    v,
                    batch: key.batch,
                    tokens: key.tokens,
                    heads: spec.heads,
                    kv_heads: spec.kv_heads,
                    head_dim: spec.head_dim,
                    kv_start: &inputs.kv_start,
                    scale: spec.scale,
                    causal: spec.causal,
                    window: spec.window,
                    alibi_slopes: spec.alibi_slopes.as_deref(),
                    mask: self.mask(inputs),
                    products: tables.attentions[step.module.0 as usize],
                    y,
                })?;
            }
            Op::SelectRows { x, which, .. } => {
                let indices = match which {
                    RowChoice::First => &inputs.first_rows,
                    RowChoice::Logits => &inputs.last_rows,
                };
                kernels.select_rows(SelectRows { x: self.rows(x)?, indices, y })?;
            }
            Op::MeanPool { x, .. } => {
                let mask = self.mask(inputs);
                let (batch, tokens) = (key.batch, key.tokens);
                kernels.mean_pool(MeanPool { x: self.rows(x)?, batch, tokens, mask, y })?;
            }
            Op::CacheWrite { .. } => return self.write_cache(&step.op, inputs, None),
        }
        Ok(())
    }
}
