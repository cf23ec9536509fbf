//! A loaded model that can be run, observed and replayed.

mod inputs;
mod observed;
mod paused;
mod replay;

use std::sync::Arc;

use joulewise_kernels::format::Format;

use crate::backend::{Backend, BackendModel, Executable, LoadProgress, Mark, StepInputs};
use crate::batch::TokenBatch;
use crate::error::{EngineError, Result};
use crate::graph::{CacheLayout, ModelGraph, PositionRule};
use crate::kv_cache::{CacheShape, KvCache};
use crate::module::ModuleId;
use crate::observer::{Observer, Span, Unobserved};
use crate::op::ValueId;
use crate::precision::PrecisionPlan;
use crate::program::{Phase, Program, ProgramKey, stored_bytes};
use crate::repetition::{Repetition, SweepProgram};
use crate::sampler::Sampler;
use crate::weight::WeightSource;

pub use observed::Observed;
pub use paused::PausedRun;
pub use replay::Replay;

/// How a session is opened.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct SessionOptions<'a> {
    /// Tokens a sequence can grow to; `None`: what the model was trained for, at most 4096.
    pub context: Option<usize>,
    /// Format of the key-value cache; `None`: that of the activations, `f32` on the CPU. A model without a cache has no
    /// use for it.
    pub cache_format: Option<Format>,
    /// Memory that may be used for weights, and what they leave of it for runs; more is refused beforehand. `None`:
    /// unknown.
    pub available_bytes: Option<usize>,
    /// Told after each weight how many are done.
    pub progress: LoadProgress<'a>,
}

impl Default for SessionOptions<'_> {
    fn default() -> Self {
        SessionOptions { context: None, cache_format: None, available_bytes: None, progress: &|_, _| {} }
    }
}

/// What a forward pass leaves behind besides its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Logits of every token, not only of the last one.
    pub all_logits: bool,
    /// Hidden states stay readable through [`Session::hidden_state`].
    pub keep_hidden_states: bool,
}

/// The result of a run, `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output<'a> {
    /// Elements, row-major.
    pub data: &'a [f32],
    /// Sequences, or tokens.
    pub rows: usize,
    /// Vocabulary, classes or width.
    pub cols: usize,
}

impl<'a> Output<'a> {
    /// One row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }
}

/// Programs that stay prepared; the least recently used one goes first.
const PREPARED_PROGRAMS: usize = 8;

struct Prepared {
    program: Arc<Program>,
    executable: Box<dyn Executable>,
}

/// See the module's documentation. One session runs one program at a time; clone the weights' `Arc`, not the session,
/// to run several.
pub struct Session {
    graph: Arc<ModelGraph>,
    model: Arc<dyn BackendModel>,
    device: String,
    weight_formats: Arc<[Format]>,
    /// What was asked for.
    wanted_cache_format: Option<Format>,
    cache_format: Format,
    context: usize,
    /// What the weights leave for runs, where that is known.
    available_bytes: Option<usize>,
    /// Most recently used first: the first one is the program of the last run.
    prepared: Vec<Prepared>,
    sweeps: Option<SweepProgram>,
    inputs: StepInputs,
    cache: Option<KvCache>,
    marks: Vec<Mark>,
    spans: Vec<Span>,
}

impl Session {
    /// Loads a model's weights onto a device.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] before anything is read, or those of the source.
    pub fn open(
        backend: &dyn Backend,
        graph: Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        options: SessionOptions<'_>,
    ) -> Result<Self> {
        let weight_formats = plan.weight_formats(&graph);
        let needed_bytes = graph
            .weights
            .iter()
            .zip(weight_formats.iter())
            .map(|(w, format)| stored_bytes(w.shape, *format))
            .fold(0, usize::saturating_add);
        if let Some(available_bytes) = options.available_bytes.filter(|available| *available < needed_bytes) {
            return Err(EngineError::OutOfMemory { needed_bytes, available_bytes });
        }
        let positions = match graph.position_rule {
            PositionRule::Sequential => graph.max_positions,
            PositionRule::AfterPadding { pad_id } => graph.max_positions.saturating_sub(pad_id as usize + 1),
        };
        let context = match options.context {
            Some(context) if context > positions => {
                return Err(EngineError::ContextOverflow { needed: context, limit: positions });
            }
            Some(context) => context,
            None => positions.min(4096),
        };
        let model = backend.load(&graph, source, plan, context, options.progress)?;
        let available_bytes = options.available_bytes.map(|bytes| bytes.saturating_sub(model.weight_bytes()));
        let wanted_cache_format = options.cache_format.filter(|_| graph.cache.is_some());
        Ok(Session {
            device: backend.describe(),
            graph,
            cache_format: model.cache_format(wanted_cache_format)?,
            wanted_cache_format,
            model,
            weight_formats,
            context,
            available_bytes,
            prepared: Vec::new(),
            sweeps: None,
            inputs: StepInputs::default(),
            cache: None,
            marks: Vec::new(),
            spans: Vec::new(),
        })
    }

    /// The model.
    pub fn graph(&self) -> &Arc<ModelGraph> {
        &self.graph
    }

    /// Where it runs.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Tokens a sequence can grow to.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of the weights as the device keeps them.
    pub fn weight_bytes(&self) -> usize {
        self.model.weight_bytes()
    }

    /// Format of the key-value cache; `None` for a model without one.
    pub fn cache_format(&self) -> Option<Format> {
        self.graph.cache.map(|_| self.cache_format)
    }

    /// Whether keys and values lose precision in the cache, so that a pass with it differs from one without.
    pub fn rounds_cache(&self) -> bool {
        self.graph.cache.is_some()
            && self.model.cache_format(None).is_ok_and(|unrounded| unrounded != self.cache_format)
    }

    /// Bytes of the key-value cache, once there is one.
    pub fn cache_bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.memory.size_bytes())
    }

    /// Whether a run of `batch` sequences of `tokens` tokens can be had, asked before there are any.
    ///
    /// # Errors
    /// [`EngineError::ContextOverflow`], or [`EngineError::RunOutOfMemory`] where it is known how much memory is free.
    pub fn check_room(&self, phase: Phase, batch: usize, tokens: usize) -> Result<()> {
        if tokens > self.context {
            return Err(EngineError::ContextOverflow { needed: tokens, limit: self.context });
        }
        let key = ProgramKey { phase, batch, tokens, all_logits: false, keep_hidden_states: false };
        self.lower(key).map(drop)
    }

    /// Has `observer` see the next run.
    pub fn observed<'s, 'o>(&'s mut self, observer: &'o mut dyn Observer) -> Observed<'s, 'o> {
        Observed { session: self, observer }
    }

    /// Runs a whole batch without a cache: class logits, embeddings, or next-token logits behind the last token.
    ///
    /// # Errors
    /// [`EngineError::ContextOverflow`], [`EngineError::TokenOutOfRange`].
    pub fn forward(&mut self, batch: &TokenBatch) -> Result<Output<'_>> {
        self.observed(&mut Unobserved).forward(batch)
    }

    /// [`Session::forward`] that keeps more.
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn forward_with(&mut self, batch: &TokenBatch, options: ForwardOptions) -> Result<Output<'_>> {
        self.observed(&mut Unobserved).forward_with(batch, options)
    }

    /// Empties the cache and fills it with prompts, padding left out: logits behind each prompt `[batch, vocab]`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for encoders, else as [`Session::forward`].
    pub fn prefill(&mut self, batch: &TokenBatch) -> Result<Output<'_>> {
        self.observed(&mut Unobserved).prefill(batch)
    }

    /// [`Session::prefill`] that keeps more; logits of padding stand behind those of the sequence.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_with(&mut self, batch: &TokenBatch, options: ForwardOptions) -> Result<Output<'_>> {
        self.observed(&mut Unobserved).prefill_with(batch, options)
    }

    /// Appends one token to every sequence: logits behind it `[batch, vocab]`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before the first [`Session::prefill`], [`EngineError::ContextOverflow`] when a
    /// sequence is full.
    pub fn decode(&mut self, tokens: &[u32]) -> Result<Output<'_>> {
        self.observed(&mut Unobserved).decode(tokens)
    }

    /// Appends one token to every sequence and draws the one behind it, with a sampler for each sequence. The tokens are
    /// those that the samplers would draw from [`Session::decode`]'s logits; a device that draws by itself keeps these.
    ///
    /// # Errors
    /// As [`Session::decode`].
    pub fn decode_next(&mut self, tokens: &[u32], samplers: &mut [Sampler]) -> Result<Vec<u32>> {
        if samplers.len() != tokens.len() {
            let (expected, got) = (tokens.len(), samplers.len());
            return Err(EngineError::BatchShape { what: "list of samplers", expected, got });
        }
        self.observed(&mut Unobserved).append(tokens)?;
        let draws: Vec<_> = samplers.iter_mut().map(Sampler::draw).collect();
        let Some(Prepared { executable, .. }) = self.prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was run yet".to_owned()));
        };
        executable.sample(self.graph.output, &draws)
    }

    /// The last run's program.
    pub fn last_program(&self) -> Option<&Arc<Program>> {
        self.prepared.first().map(|prepared| &prepared.program)
    }

    /// The modules that the device does at once when it runs the last program whole: a product with the norm in front of
    /// it, or the activation and the sum behind it, or products of the same input. Neighbours, in program order; modules in
    /// none of these stand alone.
    pub fn joined_modules(&self) -> Vec<Vec<ModuleId>> {
        let Some(Prepared { program, executable }) = self.prepared.first() else { return Vec::new() };
        let cache = self.cache.as_ref().filter(|_| program.key().phase != Phase::Forward);
        let stretches = executable.done_at_once(&self.inputs, cache.map(|cache| cache.memory.as_ref()));
        let mut joined: Vec<Vec<ModuleId>> = Vec::new();
        for steps in stretches.unwrap_or_default() {
            let cuts = program.cuts(crate::Granularity::Module).iter();
            let touched = cuts.filter(|cut| cut.steps.start < steps.end && steps.start < cut.steps.end);
            let modules: Vec<ModuleId> = touched.map(|cut| cut.module).collect();
            match joined.last_mut() {
                // A module may end one stretch and begin the next.
                Some(last) if last.last() == modules.first() => last.extend_from_slice(&modules[1..]),
                _ => joined.push(modules),
            }
        }
        joined.retain(|modules| modules.len() > 1);
        joined
    }

    /// Tokens that stood in the cache before the last run; the costs of a decode step depend on it.
    pub fn last_kv_start(&self) -> usize {
        self.inputs.kv_start.iter().copied().max().unwrap_or(0) as usize
    }

    /// Hidden state `index` of the last run, `[batch * tokens, d_model]`: embeddings, then each layer's output.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the last run did not keep them.
    pub fn hidden_state(&mut self, index: usize) -> Result<Output<'_>> {
        let kept = self.last_program().is_some_and(|program| program.key().keep_hidden_states);
        let value = self.graph.hidden_states.get(index).copied().filter(|_| kept);
        let value =
            value.ok_or_else(|| EngineError::Unsupported(format!("hidden state {index} was not kept")))?;
        self.read(value)
    }

    /// The result of the last run.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before the first run.
    pub fn output(&mut self) -> Result<Output<'_>> {
        self.read(self.graph.output)
    }

    /// Tokens in the cache, per sequence.
    pub fn lengths(&self) -> &[u32] {
        self.cache.as_ref().map_or(&[], |cache| &cache.lengths)
    }

    /// Forgets the tokens from `length` on, in every sequence that has more.
    pub fn truncate(&mut self, length: usize) {
        if let Some(cache) = &mut self.cache {
            for filled in &mut cache.lengths {
                *filled = (*filled).min(length as u32);
            }
        }
    }

    /// Makes one module ready to be run again and again with the data of the last run.
    ///
    /// Everything before the module is run once, because its inputs may have been reused since. [`ModuleId::ROOT`]
    /// stands for the whole program, a container for
    /// all modules inside it.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before the first run, [`EngineError::UnknownModule`] when the module owns no step.
    pub fn replay(&mut self, module: ModuleId) -> Result<Replay<'_>> {
        let program = self.last_program().cloned();
        let program = program
            .ok_or_else(|| EngineError::Unsupported("nothing was run that could be replayed".to_owned()))?;
        let steps = program.module_steps(module);
        let steps =
            steps.ok_or_else(|| EngineError::UnknownModule(self.graph.modules.get(module).path.clone()))?;
        let Session { prepared, inputs, cache, .. } = self;
        let Some(Prepared { executable, .. }) = prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was run that could be replayed".to_owned()));
        };
        let cache = cache.as_mut().filter(|_| program.key().phase != Phase::Forward);
        let all_steps = program.steps().len();
        Replay::begin(executable.as_mut(), inputs, cache, steps, all_steps)
    }

    /// Makes sets of modules ready to be run extra times behind each run of the last program, with its data: a *sweep*
    /// runs the modules of a set once each. The sets must not overlap.
    ///
    /// Sweeps have memory of their own, about that of one layer, and write to the cache only what stands there.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before the first run, [`EngineError::UnknownModule`] for a module without steps,
    /// and when the device has no room.
    pub fn repetition(&mut self, sets: &[Vec<ModuleId>]) -> Result<Repetition<'_>> {
        let Session { prepared, sweeps, model, inputs, cache, .. } = self;
        let Some(Prepared { program, executable }) = prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was run that could be repeated".to_owned()));
        };
        let cache = cache.as_mut().filter(|_| program.key().phase != Phase::Forward);
        let kept = sweeps.take().filter(|sweeps| sweeps.fits(program, sets));
        let sweeps = sweeps.insert(match kept {
            Some(kept) => kept,
            None => SweepProgram::prepare(model.as_ref(), program, sets)?,
        });
        let mut repetition =
            Repetition { whole: executable.as_mut(), sweeps, inputs, cache, has_swept: false };
        repetition.fill()?;
        Ok(repetition)
    }

    fn read(&mut self, value: ValueId) -> Result<Output<'_>> {
        let Some(Prepared { program, executable }) = self.prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was run yet".to_owned()));
        };
        let (rows, cols) = program.shape(value);
        Ok(Output { data: executable.read(value)?, rows, cols })
    }

    /// Moves the program for `key` to the front, preparing it first if it is new.
    fn prepare(&mut self, key: ProgramKey) -> Result<()> {
        if let Some(index) = self.prepared.iter().position(|prepared| prepared.program.key() == key) {
            self.prepared[..=index].rotate_right(1);
            return Ok(());
        }
        let program = Arc::new(self.lower(key)?);
        self.prepared.truncate(PREPARED_PROGRAMS - 1);
        let executable = self.model.prepare(program.clone())?;
        self.prepared.insert(0, Prepared { program, executable });
        Ok(())
    }

    /// The program for `key`, unless it would need more memory than there is.
    fn lower(&self, key: ProgramKey) -> Result<Program> {
        let (graph, weight_formats) = (self.graph.clone(), self.weight_formats.clone());
        let program = Program::lower(graph, key, weight_formats, self.cache_format)?;
        let value_formats = self.model.value_formats(&program);
        let program = program.with_value_formats(value_formats.into());
        let (batch, tokens) = (key.batch, key.tokens);
        // Of the cache only what this run writes: the rest may take no memory until it is written.
        let cache = (key.phase != Phase::Forward).then(|| self.cache_shape(batch, tokens)).flatten();
        let cache_bytes = cache.map_or(0, |shape| shape.size_bytes());
        let needed_bytes = program.arena_bytes().saturating_add(cache_bytes);
        match self.available_bytes {
            Some(available_bytes) if available_bytes < needed_bytes => {
                Err(EngineError::RunOutOfMemory { batch, tokens, needed_bytes, available_bytes })
            }
            _ => Ok(program),
        }
    }

    /// The sizes of a cache; `None` for a model without one.
    fn cache_shape(&self, batch: usize, capacity: usize) -> Option<CacheShape> {
        let CacheLayout { layers, kv_heads, head_dim } = self.graph.cache?;
        Some(CacheShape { layers, batch, kv_heads, capacity, head_dim, format: self.cache_format })
    }

    /// Everything a forward pass needs before its first step.
    fn prepare_forward(&mut self, batch: &TokenBatch, options: ForwardOptions) -> Result<()> {
        if batch.tokens() > self.context {
            return Err(EngineError::ContextOverflow { needed: batch.tokens(), limit: self.context });
        }
        self.inputs.fill(
            &self.graph,
            std::iter::repeat_n(0, batch.batch()),
            batch.ids(),
            batch.token_types(),
            batch.mask(),
        )?;
        self.prepare(ProgramKey {
            phase: Phase::Forward,
            batch: batch.batch(),
            tokens: batch.tokens(),
            all_logits: options.all_logits,
            keep_hidden_states: options.keep_hidden_states,
        })
    }

    /// Runs the program at the front, cut as the observer wishes.
    fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Session { prepared, inputs, cache, marks, spans, .. } = self;
        let Some(Prepared { program, executable }) = prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was prepared".to_owned()));
        };
        let cuts = program.cuts(observer.granularity());
        marks.clear();
        for cut in cuts {
            observer.enter(program, cut);
            marks.push(executable.mark()?);
            let memory = cache.as_mut().map(|cache| cache.memory.as_mut());
            executable.run(
                cut.steps.clone(),
                inputs,
                memory.filter(|_| program.key().phase != Phase::Forward),
            )?;
            marks.push(executable.mark()?);
            observer.exit(program, cut, executable.as_mut())?;
        }
        spans.clear();
        for (cut, pair) in cuts.iter().zip(marks.chunks_exact(2)) {
            spans.push(Span {
                module: cut.module,
                steps: cut.steps.clone(),
                start_s: executable.seconds_between(marks[0], pair[0])?,
                duration_s: executable.seconds_between(pair[0], pair[1])?,
            });
        }
        observer.spans(program, spans);
        Ok(())
    }
}
