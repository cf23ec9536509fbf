//! The shared vocabulary of blocks that every family is written in.
//!
//! A family calls these in the order of the forward pass; differences between families (norm kind, positions, heads,
//! activation, layouts) are arguments. Every call names its module by the checkpoint's own path, relative to the
//! enclosing [`ModelBuilder::scope`].

use joulewise_kernels::args::{ActivationKind, NormKind};

use crate::error::{EngineError, Result};
use crate::graph::{CacheLayout, ModelGraph, OutputKind, PositionRule, Step};
use crate::module::{ModuleId, ModuleKind, ModuleTree};
use crate::op::{AttentionSpec, IndexInput, Op, Operand, RopeId, RowChoice, RowDomain, ValueId, ValueShape};
use crate::rope::RopeSpec;
use crate::weight::{WeightId, WeightLayout, WeightShape, WeightSpec};

/// A matrix flowing between blocks: all columns of a value, or a slice of them.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    operand: Operand,
    domain: RowDomain,
}

impl Flow {
    /// Elements of a row.
    pub fn cols(self) -> usize {
        self.operand.cols
    }
}

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Output features.
    pub n: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the checkpoint stores the weight (and the bias, for interleaved heads).
    pub layout: WeightLayout,
    /// What the layer is for.
    pub kind: ModuleKind,
}

impl Linear {
    /// A `torch.nn.Linear` with bias.
    pub fn new(kind: ModuleKind, n: usize) -> Self {
        Linear { n, bias: true, layout: WeightLayout::RowMajor, kind }
    }

    /// With or without bias.
    pub fn with_bias(self, bias: bool) -> Self {
        Linear { bias, ..self }
    }

    /// Stored otherwise than `[n, k]`.
    pub fn with_layout(self, layout: WeightLayout) -> Self {
        Linear { layout, ..self }
    }
}

/// A norm layer.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// LayerNorm or RMSNorm.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f64,
}

impl Norm {
    /// LayerNorm with gain and shift.
    pub fn layer(eps: f64) -> Self {
        Norm { kind: NormKind::Layer, eps }
    }

    /// RMSNorm with gain.
    pub fn rms(eps: f64) -> Self {
        Norm { kind: NormKind::Rms, eps }
    }
}

/// What stands between the query-key-value projections and the output projection.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Heads, scale, masks.
    pub spec: AttentionSpec,
    /// Rotary embedding of queries and keys.
    pub rope: Option<RopeId>,
    /// Layer of the key-value cache; `None` in encoders.
    pub cache_layer: Option<usize>,
}

/// Builds a [`ModelGraph`].
#[derive(Debug)]
pub struct ModelBuilder {
    modules: ModuleTree,
    weights: Vec<WeightSpec>,
    ropes: Vec<RopeSpec>,
    values: Vec<ValueShape>,
    steps: Vec<Step>,
    hidden_states: Vec<ValueId>,
    path: String,
    block: Option<u32>,
    cache: Option<CacheLayout>,
    vocab_size: usize,
    max_positions: usize,
    position_rule: PositionRule,
}

impl ModelBuilder {
    /// An empty model over `vocab_size` tokens and `max_positions` positions.
    pub fn new(vocab_size: usize, max_positions: usize, position_rule: PositionRule) -> Self {
        ModelBuilder {
            modules: ModuleTree::default(),
            weights: Vec::new(),
            ropes: Vec::new(),
            values: Vec::new(),
            steps: Vec::new(),
            hidden_states: Vec::new(),
            path: String::new(),
            block: None,
            cache: None,
            vocab_size,
            max_positions,
            position_rule,
        }
    }

    /// Everything built inside `body` has `name` in its path.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = self.path.len();
        self.path = self.join(name);
        let path = self.path.clone();
        self.modules.add(&path, ModuleKind::Container, self.block)?;
        let result = body(self);
        self.path.truncate(outer);
        result
    }

    /// A [`ModelBuilder::scope`] that is layer number `index`.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn block<T>(
        &mut self,
        name: &str,
        index: usize,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outer = self.block.replace(index as u32);
        let result = self.scope(name, body);
        self.block = outer;
        result
    }

    /// Rows of a table, chosen by tokens, positions or token types: `[tokens, k]`.
    ///
    /// Returns the table too, for a head that is tied to it.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn embedding(
        &mut self,
        name: &str,
        index: IndexInput,
        n: usize,
        k: usize,
    ) -> Result<(Flow, WeightId)> {
        let module = self.module(name, ModuleKind::Embedding)?;
        let table = self.weight(module, "weight", WeightShape::Matrix { n, k }, WeightLayout::RowMajor);
        let (y, flow) = self.value(RowDomain::Tokens, k);
        self.push(module, Op::Embed { table, index, y });
        Ok((flow, table))
    }

    /// `x w^T + bias`.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn linear(&mut self, name: &str, x: Flow, linear: Linear) -> Result<Flow> {
        let module = self.module(name, linear.kind)?;
        let shape = WeightShape::Matrix { n: linear.n, k: x.cols() };
        let weight = self.weight(module, "weight", shape, linear.layout);
        let bias_layout = match linear.layout {
            WeightLayout::Transposed => WeightLayout::RowMajor,
            other => other,
        };
        let bias = linear
            .bias
            .then(|| self.weight(module, "bias", WeightShape::Vector { n: linear.n }, bias_layout));
        let (y, flow) = self.value(x.domain, linear.n);
        self.push(module, Op::Linear { x: x.operand, weight, bias, y });
        Ok(flow)
    }

    /// A head that multiplies with an embedding's table.
    ///
    /// # Errors
    /// [`EngineError::Build`] when the widths differ.
    pub fn tied_head(&mut self, name: &str, x: Flow, table: WeightId) -> Result<Flow> {
        let module = self.module(name, ModuleKind::Head)?;
        let WeightShape::Matrix { n, k } = self.weights[table.index()].shape else {
            return Err(EngineError::Unsupported(format!("{name}: a head cannot be tied to a vector")));
        };
        self.same(module, "width of the input", k, x.cols())?;
        let (y, flow) = self.value(x.domain, n);
        self.push(module, Op::Linear { x: x.operand, weight: table, bias: None, y });
        Ok(flow)
    }

    /// Row-wise normalisation.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn norm(&mut self, name: &str, x: Flow, norm: Norm) -> Result<Flow> {
        let module = self.module(name, ModuleKind::Norm)?;
        let shape = WeightShape::Vector { n: x.cols() };
        let weight = self.weight(module, "weight", shape, WeightLayout::RowMajor);
        let bias = (norm.kind == NormKind::Layer)
            .then(|| self.weight(module, "bias", shape, WeightLayout::RowMajor));
        let (y, flow) = self.value(x.domain, x.cols());
        self.push(module, Op::Norm { kind: norm.kind, x: x.operand, weight, bias, eps: norm.eps as f32, y });
        Ok(flow)
    }

    /// An element-wise function; `kind` says whether it belongs to an MLP or to a head.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn activation(
        &mut self,
        name: &str,
        kind: ModuleKind,
        function: ActivationKind,
        x: Flow,
    ) -> Result<Flow> {
        let module = self.module(name, kind)?;
        let (y, flow) = self.value(x.domain, x.cols());
        self.push(module, Op::Activate { kind: function, x: x.operand, y });
        Ok(flow)
    }

    /// `f(gate) * up`.
    ///
    /// # Errors
    /// [`EngineError::Build`] when the widths differ.
    pub fn gate(&mut self, name: &str, function: ActivationKind, gate: Flow, up: Flow) -> Result<Flow> {
        let module = self.module(name, ModuleKind::MlpActivation)?;
        self.same(module, "width of the up projection", gate.cols(), up.cols())?;
        let (y, flow) = self.value(gate.domain, gate.cols());
        self.push(module, Op::Gate { kind: function, gate: gate.operand, up: up.operand, y });
        Ok(flow)
    }

    /// `a + b`: a residual connection, or a sum of embeddings.
    ///
    /// # Errors
    /// [`EngineError::Build`] when the widths differ.
    pub fn add(&mut self, name: &str, a: Flow, b: Flow) -> Result<Flow> {
        let module = self.module(name, ModuleKind::Residual)?;
        self.same(module, "width of the second summand", a.cols(), b.cols())?;
        let (y, flow) = self.value(a.domain, a.cols());
        self.push(module, Op::Add { a: a.operand, b: b.operand, y });
        Ok(flow)
    }

    /// Columns `offset .. offset + cols`: one part of a fused projection. Costs nothing.
    ///
    /// # Errors
    /// [`EngineError::Build`] when the columns do not exist.
    pub fn slice(&self, x: Flow, offset: usize, cols: usize) -> Result<Flow> {
        if offset + cols > x.cols() {
            let module = self.path.clone();
            return Err(EngineError::Build {
                module,
                what: "end of a column slice",
                expected: x.cols(),
                got: offset + cols,
            });
        }
        Ok(Flow {
            operand: Operand { offset: x.operand.offset + offset, cols, ..x.operand },
            domain: x.domain,
        })
    }

    /// A rotary table that attentions can share.
    pub fn rope(&mut self, spec: RopeSpec) -> RopeId {
        let known = self.ropes.iter().position(|rope| *rope == spec);
        let index = known.unwrap_or_else(|| {
            self.ropes.push(spec);
            self.ropes.len() - 1
        });
        RopeId(index as u32)
    }

    /// Rotary embedding, cache write and attention, owned by the enclosing scope's own module.
    ///
    /// # Errors
    /// [`EngineError::Build`] when a width is not heads times head size.
    pub fn attention(&mut self, q: Flow, k: Flow, v: Flow, attention: Attention) -> Result<Flow> {
        let path = self.path.clone();
        let module = self.modules.add(&path, ModuleKind::Attention, self.block)?;
        let Attention { spec, rope, cache_layer } = attention;
        self.same(module, "width of the queries", spec.heads * spec.head_dim, q.cols())?;
        self.same(module, "width of the keys", spec.kv_heads * spec.head_dim, k.cols())?;
        self.same(module, "width of the values", spec.kv_heads * spec.head_dim, v.cols())?;
        if spec.kv_heads == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
            let (expected, got) = (spec.kv_heads, spec.heads);
            return Err(EngineError::Build {
                module: path,
                what: "multiple of the key-value heads",
                expected,
                got,
            });
        }
        if let Some(slopes) = &spec.alibi_slopes {
            self.same(module, "number of ALiBi slopes", spec.heads, slopes.len())?;
        }
        let (mut q, mut k) = (q, k);
        if let Some(table) = rope {
            let rotary = self.ropes[table.0 as usize].rotary;
            if rotary > spec.head_dim || !rotary.is_multiple_of(2) {
                let (expected, got) = (spec.head_dim, rotary);
                return Err(EngineError::Build { module: path, what: "rotary dimensions", expected, got });
            }
            for flow in [&mut q, &mut k] {
                let (y, rotated) = self.value(RowDomain::Tokens, flow.cols());
                self.push(module, Op::Rope { x: flow.operand, head_dim: spec.head_dim, table, y });
                *flow = rotated;
            }
        }
        let (k, v) = (k.operand, v.operand);
        if let Some(layer) = cache_layer {
            let cache = self.cache.get_or_insert(CacheLayout {
                layers: 0,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
            });
            cache.layers = cache.layers.max(layer + 1);
            let (kv_heads, head_dim) = (cache.kv_heads, cache.head_dim);
            self.same(module, "key-value heads, as in the other layers", kv_heads, spec.kv_heads)?;
            self.same(module, "head size, as in the other layers", head_dim, spec.head_dim)?;
            self.push(module, Op::CacheWrite { layer, k, v });
        }
        let (y, flow) = self.value(RowDomain::Tokens, spec.heads * spec.head_dim);
        self.push(module, Op::Attention { q: q.operand, k, v, layer: cache_layer, spec, y });
        Ok(flow)
    }

    /// The first token of each sequence: `[batch, cols]`.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn first_token(&mut self, name: &str, x: Flow) -> Result<Flow> {
        self.select(name, x, RowChoice::First, RowDomain::Sequences)
    }

    /// The positions whose logits the program is asked for: `[logit rows, cols]`.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn logit_rows(&mut self, name: &str, x: Flow) -> Result<Flow> {
        self.select(name, x, RowChoice::Logits, RowDomain::Logits)
    }

    fn select(&mut self, name: &str, x: Flow, which: RowChoice, domain: RowDomain) -> Result<Flow> {
        let module = self.module(name, ModuleKind::Pooler)?;
        let (y, flow) = self.value(domain, x.cols());
        self.push(module, Op::SelectRows { x: x.operand, which, y });
        Ok(flow)
    }

    /// Mean over the visible tokens: `[batch, cols]`.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`].
    pub fn mean_pool(&mut self, name: &str, x: Flow) -> Result<Flow> {
        let module = self.module(name, ModuleKind::Pooler)?;
        let (y, flow) = self.value(RowDomain::Sequences, x.cols());
        self.push(module, Op::MeanPool { x: x.operand, y });
        Ok(flow)
    }

    /// Marks the next hidden state: embeddings first, then each layer's output, the last one behind the final norm.
    pub fn hidden_state(&mut self, x: Flow) {
        self.hidden_states.push(x.operand.value);
    }

    /// The finished model.
    ///
    /// # Errors
    /// When a module was built twice or in two places.
    pub fn finish(self, output_kind: OutputKind, output: Flow) -> Result<ModelGraph> {
        let graph = ModelGraph {
            modules: self.modules,
            weights: self.weights,
            ropes: self.ropes,
            values: self.values,
            steps: self.steps,
            hidden_states: self.hidden_states,
            output: output.operand.value,
            output_kind,
            vocab_size: self.vocab_size,
            max_positions: self.max_positions,
            position_rule: self.position_rule,
            cache: self.cache,
        };
        graph.check()?;
        Ok(graph)
    }

    fn join(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{name}", self.path),
        }
    }

    fn module(&mut self, name: &str, kind: ModuleKind) -> Result<ModuleId> {
        self.modules.add(&self.join(name), kind, self.block)
    }

    fn weight(
        &mut self,
        module: ModuleId,
        suffix: &str,
        shape: WeightShape,
        layout: WeightLayout,
    ) -> WeightId {
        let name = format!("{}.{suffix}", self.modules.get(module).path);
        self.weights.push(WeightSpec { name, shape, layout, module });
        WeightId(self.weights.len() as u32 - 1)
    }

    fn value(&mut self, domain: RowDomain, cols: usize) -> (ValueId, Flow) {
        self.values.push(ValueShape { domain, cols });
        let value = ValueId(self.values.len() as u32 - 1);
        (value, Flow { operand: Operand { value, offset: 0, cols }, domain })
    }

    fn push(&mut self, module: ModuleId, op: Op) {
        self.steps.push(Step { op, module });
    }

    fn same(&self, module: ModuleId, what: &'static str, expected: usize, got: usize) -> Result<()> {
        if expected == got {
            return Ok(());
        }
        Err(EngineError::Build { module: self.modules.get(module).path.clone(), what, expected, got })
    }
}
