//! A program: a model's steps for one phase, batch and length, with memory assigned and cut points known.
//!
//! Hooks are cuts, not callbacks: a program knows where modules and layers begin and end, and whoever observes a run
//! has it executed range by range. Nobody observing means one range.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use joulewise_kernels::format::Format;

use crate::arena::{Arena, Life};
use crate::error::Result;
use crate::graph::{ModelGraph, Step};
use crate::module::{ModuleId, ModuleKind};
use crate::observer::Granularity;
use crate::op::{Cost, CostContext, Op, RowChoice, RowDomain, ValueId};
use crate::weight::{WeightId, WeightShape};

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A whole batch at once, without a cache: encoders, scoring.
    Forward,
    /// Prompt tokens into the cache.
    Prefill,
    /// One new token per sequence.
    Decode,
}

impl Phase {
    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// Everything a program is built from besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramKey {
    /// What the run is for.
    pub phase: Phase,
    /// Sequences.
    pub batch: usize,
    /// New tokens per sequence.
    pub tokens: usize,
    /// Logits of all tokens instead of the last one's.
    pub all_logits: bool,
    /// Whether hidden states stay readable after the run.
    pub keep_hidden_states: bool,
}

impl ProgramKey {
    /// Rows of a value.
    fn rows(&self, domain: RowDomain) -> usize {
        match domain {
            // Sizes beyond the address space saturate, and the check of the memory that is free refuses them.
            RowDomain::Tokens => self.batch.saturating_mul(self.tokens),
            RowDomain::Logits if self.all_logits => self.batch.saturating_mul(self.tokens),
            RowDomain::Logits | RowDomain::Sequences => self.batch,
        }
    }
}

/// A contiguous range of steps that is run as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The module, or the parent that stands for several.
    pub module: ModuleId,
    /// The steps.
    pub steps: Range<usize>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Program {
    graph: Arc<ModelGraph>,
    key: ProgramKey,
    steps: Vec<Step>,
    arena: Arena,
    /// Value that stands for each value: itself, or the input of a selection that keeps everything.
    alias: Vec<ValueId>,
    weight_formats: Arc<[Format]>,
    /// What each value is kept in.
    value_formats: Arc<[Format]>,
    /// Of the cache that the program uses, if it does.
    cache_format: Option<Format>,
    whole: [Cut; 1],
    blocks: Vec<Cut>,
    modules: Vec<Cut>,
    single_steps: Vec<Cut>,
    /// Of a copy for repetition: the steps of each set of modules.
    sets: Vec<Vec<Range<usize>>>,
}

impl Program {
    /// Lowers a model. `weight_formats` has one entry per weight of the graph.
    pub fn lower(
        graph: Arc<ModelGraph>,
        key: ProgramKey,
        weight_formats: Arc<[Format]>,
        cache_format: Format,
    ) -> Result<Program> {
        let mut alias: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        let mut steps = Vec::with_capacity(graph.steps.len());
        for step in &graph.steps {
            match &step.op {
                Op::CacheWrite { .. } if key.phase == Phase::Forward => {}
                Op::SelectRows { x, which: RowChoice::Logits, y } if key.all_logits || key.tokens == 1 => {
                    alias[y.index()] = alias[x.value.index()];
                }
                _ => steps.push(step.clone()),
            }
        }
        let cut = |same: &dyn Fn(&Step, &Step) -> bool, module: &dyn Fn(&Step) -> ModuleId| {
            let mut cuts: Vec<Cut> = Vec::new();
            for (index, step) in steps.iter().enumerate() {
                match cuts.last_mut() {
                    Some(last) if same(&steps[index - 1], step) => last.steps.end = index + 1,
                    _ => cuts.push(Cut { module: module(step), steps: index..index + 1 }),
                }
            }
            cuts
        };
        let block = |step: &Step| graph.modules.get(step.module).block;
        let blocks = cut(&|a, b| block(a) == block(b), &|step| block_module(&graph, step.module));
        let modules = cut(&|a, b| a.module == b.module, &|step| step.module);
        let single_steps = cut(&|_, _| false, &|step| step.module);
        let whole = [Cut { module: ModuleId::ROOT, steps: 0..steps.len() }];
        let arena = Arena::plan(&lives(&graph, key, &steps, &alias));
        let sets = Vec::new();
        Ok(Program {
            key,
            steps,
            arena,
            alias,
            weight_formats,
            value_formats: vec![Format::F32; graph.values.len()].into(),
            cache_format: (key.phase != Phase::Forward).then_some(cache_format),
            whole,
            blocks,
            modules,
            single_steps,
            sets,
            graph,
        })
    }

    /// The program on a device that keeps each value of the graph in a format of its own; f32 where nobody says so.
    pub fn with_value_formats(self, value_formats: Arc<[Format]>) -> Program {
        Program { value_formats, ..self }
    }

    /// A copy in which the same value of every layer has one place of its own: whatever order modules are run in, they find
    /// there what a module of their kind has written. It has no cuts of its own, but knows the steps of sets of modules.
    pub(crate) fn for_repetition(&self, sets: &[Vec<ModuleId>]) -> Program {
        let stretches = |set: &Vec<ModuleId>| {
            let mut stretches: Vec<Range<usize>> = Vec::new();
            for cut in self.modules.iter().filter(|cut| set.contains(&cut.module)) {
                match stretches.last_mut() {
                    Some(last) if last.end == cut.steps.start => last.end = cut.steps.end,
                    _ => stretches.push(cut.steps.clone()),
                }
            }
            stretches
        };
        let mut roles = HashMap::new();
        let mut arena = Arena { slots: vec![None; self.graph.values.len()], sizes: Vec::new() };
        for cut in &self.modules {
            let module = self.graph.modules.get(cut.module);
            let number = module.block.map(|block| block.to_string());
            let in_any_layer: Vec<&str> = module
                .path
                .split('.')
                .map(|name| if Some(name) == number.as_deref() { "*" } else { name })
                .collect();
            let role = in_any_layer.join(".");
            for (index, step) in self.steps[cut.steps.clone()].iter().enumerate() {
                let Some(y) = step.op.output() else { continue };
                let (rows, cols) = self.shape(y);
                let slot = *roles.entry((role.clone(), index)).or_insert_with(|| {
                    arena.sizes.push(0);
                    arena.sizes.len() - 1
                });
                arena.sizes[slot] = arena.sizes[slot].max(rows * cols);
                arena.slots[y.index()] = Some(slot as u32);
            }
        }
        Program {
            arena,
            blocks: Vec::new(),
            modules: Vec::new(),
            single_steps: Vec::new(),
            sets: sets.iter().map(stretches).collect(),
            ..self.clone()
        }
    }

    /// The steps of a set of modules in a copy for repetition, in as few stretches as they are.
    pub(crate) fn set_steps(&self, set: usize) -> Option<&[Range<usize>]> {
        self.sets.get(set).map(Vec::as_slice)
    }

    /// An arena in which no two values share a slot whose lives are less than `room` steps apart: for backends that do
    /// neighbouring steps at once.
    pub(crate) fn arena_with_room(&self, room: usize) -> Arena {
        let mut lives = lives(&self.graph, self.key, &self.steps, &self.alias);
        for life in lives.iter_mut().flatten() {
            life.steps = life.steps.start.saturating_sub(room)..life.steps.end + room;
        }
        Arena::plan(&lives)
    }

    /// Whether values have to lie where the arena says, because that is what the program is for.
    pub(crate) fn has_fixed_places(&self) -> bool {
        !self.sets.is_empty()
    }

    /// The model.
    pub fn graph(&self) -> &Arc<ModelGraph> {
        &self.graph
    }

    /// What the program was built for.
    pub fn key(&self) -> ProgramKey {
        self.key
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Memory of the values.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Bytes of the memory that values share.
    pub fn arena_bytes(&self) -> usize {
        // Each slot has room for the widest of the values that take turns in it.
        let mut sizes = vec![0; self.arena.sizes.len()];
        for (value, slot) in self.arena.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let (rows, cols) = self.shape(ValueId(value as u32));
            let size = rows.saturating_mul(self.value_formats[value].spec().code_bytes(cols));
            sizes[*slot as usize] = size.max(sizes[*slot as usize]);
        }
        sizes.into_iter().fold(0, usize::saturating_add)
    }

    /// Rows and columns of a value in this program.
    pub fn shape(&self, value: ValueId) -> (usize, usize) {
        let shape = self.graph.value(value);
        (self.key.rows(shape.domain), shape.cols)
    }

    /// Slot that holds a value, `None` when this program never writes it.
    pub fn slot(&self, value: ValueId) -> Option<usize> {
        self.arena.slots[self.alias[value.index()].index()].map(|slot| slot as usize)
    }

    /// The value that stands for `value` in this program: itself, or the input of a selection that keeps everything.
    pub(crate) fn alias(&self, value: ValueId) -> ValueId {
        self.alias[value.index()]
    }

    /// The ranges that are run one by one at this granularity; `Off` is always a single one.
    pub fn cuts(&self, granularity: Granularity) -> &[Cut] {
        match granularity {
            Granularity::Off => &self.whole,
            Granularity::Block => &self.blocks,
            Granularity::Module => &self.modules,
            Granularity::Step => &self.single_steps,
        }
    }

    /// The steps of a module: its own if it owns any, else from the first to the last of those below it. `None` when
    /// this program has none of them.
    pub fn module_steps(&self, module: ModuleId) -> Option<Range<usize>> {
        module_steps(&self.graph, &self.steps, module)
    }

    /// Number format of a weight.
    pub fn weight_format(&self, weight: WeightId) -> Format {
        self.weight_formats[weight.index()]
    }

    /// Stored bytes of a weight.
    pub fn weight_bytes(&self, weight: WeightId) -> usize {
        stored_bytes(self.graph.weight(weight).shape, self.weight_format(weight))
    }

    /// Counted work and traffic of a range of steps with `kv_start` tokens already in the cache.
    pub fn cost(&self, steps: Range<usize>, kv_start: usize) -> Cost {
        let context = CostContext {
            shape: &|value| self.shape(value),
            format: &|value| self.value_formats[value.index()],
            weight_bytes: &|weight| self.weight_bytes(weight),
            row_bytes: &|weight| match self.graph.weight(weight).shape {
                WeightShape::Matrix { n, .. } => self.weight_bytes(weight) / n.max(1),
                WeightShape::Vector { .. } => size_of::<f32>(),
            },
            cache: self.cache_format.zip(self.graph.cache.map(|cache| cache.head_dim)),
            batch: self.key.batch,
            tokens: self.key.tokens,
            kv_start,
        };
        let mut total = Cost::default();
        for step in &self.steps[steps] {
            total += step.op.cost(&context);
        }
        total
    }
}

/// When each value is written and last read.
fn lives(graph: &ModelGraph, key: ProgramKey, steps: &[Step], alias: &[ValueId]) -> Vec<Option<Life>> {
    let mut lives: Vec<Option<Life>> = vec![None; graph.values.len()];
    for (index, step) in steps.iter().enumerate() {
        if let Some(y) = step.op.output() {
            let shape = graph.value(y);
            let size = key.rows(shape.domain).saturating_mul(shape.cols);
            lives[y.index()] = Some(Life { steps: index..index, size });
        }
        for input in step.op.inputs() {
            if let Some(life) = &mut lives[alias[input.value.index()].index()] {
                life.steps.end = index;
            }
        }
    }
    // What flows into a module stays as it is until the module's end, so that the whole of it can be run again.
    for range in graph.modules.iter().filter_map(|(id, _)| module_steps(graph, steps, id)) {
        for input in steps[range.clone()].iter().flat_map(|step| step.op.inputs()) {
            if let Some(life) = &mut lives[alias[input.value.index()].index()]
                && life.steps.start < range.start
            {
                life.steps.end = life.steps.end.max(range.end - 1);
            }
        }
    }
    let kept = if key.keep_hidden_states { graph.hidden_states.as_slice() } else { &[] };
    for value in kept.iter().chain([&graph.output]) {
        if let Some(life) = &mut lives[alias[value.index()].index()] {
            life.steps.end = steps.len();
        }
    }
    lives
}

fn module_steps(graph: &ModelGraph, steps: &[Step], module: ModuleId) -> Option<Range<usize>> {
    let owns_steps = graph.modules.get(module).kind != ModuleKind::Container;
    let belongs =
        |step: &Step| step.module == module || !owns_steps && graph.modules.is_below(step.module, module);
    let first = steps.iter().position(belongs)?;
    let last = steps.iter().rposition(belongs)?;
    Some(first..last + 1)
}

/// Bytes of a weight in a format; vectors stay in f32.
pub(crate) fn stored_bytes(shape: WeightShape, format: Format) -> usize {
    match shape {
        WeightShape::Matrix { n, k } => format.spec().encoded_bytes(n, k),
        WeightShape::Vector { n } => n.saturating_mul(size_of::<f32>()),
    }
}

/// The outermost module that still lies within the same layer, which stands for the layer in block cuts.
fn block_module(graph: &ModelGraph, module: ModuleId) -> ModuleId {
    let block = graph.modules.get(module).block;
    let mut id = module;
    while let Some(parent) = graph.modules.get(id).parent {
        let candidate = graph.modules.get(parent);
        if parent == ModuleId::ROOT || candidate.block != block || candidate.kind != ModuleKind::Container {
            break;
        }
        id = parent;
    }
    id
}
