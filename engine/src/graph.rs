//! A model as a family built it: modules, weights and one linear list of steps, before any batch size is known.

use crate::error::{EngineError, Result};
use crate::module::{ModuleId, ModuleTree};
use crate::op::{Op, ValueId, ValueShape};
use crate::rope::RopeSpec;
use crate::weight::{WeightId, WeightSpec};

/// One operation and the module it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// Whose time and energy it is.
    pub module: ModuleId,
}

/// How positions follow from a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionRule {
    /// `0, 1, 2, ...` whatever the mask says.
    Sequential,
    /// RoBERTa: `pad_id + 1, pad_id + 2, ...` over the tokens that are not `pad_id`; padding stays at `pad_id`.
    AfterPadding {
        /// The padding token.
        pad_id: u32,
    },
}

/// What the last value of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Next-token logits `[logit rows, vocab_size]`.
    NextToken,
    /// Class logits `[batch, n_classes]`.
    Classes,
    /// One vector per sequence `[batch, d_model]`.
    Embedding,
}

/// Sizes of a key-value cache, per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Layers with attention.
    pub layers: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// A model: made by [`crate::ModelBuilder`], run by a [`crate::Session`].
#[derive(Clone, Debug)]
pub struct ModelGraph {
    /// The named parts.
    pub modules: ModuleTree,
    /// What has to be loaded.
    pub weights: Vec<WeightSpec>,
    /// Rotary tables.
    pub ropes: Vec<RopeSpec>,
    /// Shapes of all values.
    pub values: Vec<ValueShape>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Hidden states: the embeddings, then the output of each layer, the last one behind the final norm.
    pub hidden_states: Vec<ValueId>,
    /// The result.
    pub output: ValueId,
    /// What the result is.
    pub output_kind: OutputKind,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Positions the model knows.
    pub max_positions: usize,
    /// How positions are counted.
    pub position_rule: PositionRule,
    /// The cache that decoding needs; `None` for encoders.
    pub cache: Option<CacheLayout>,
}

impl ModelGraph {
    /// Shape of a value.
    pub fn value(&self, id: ValueId) -> ValueShape {
        self.values[id.index()]
    }

    /// A weight's declaration.
    pub fn weight(&self, id: WeightId) -> &WeightSpec {
        &self.weights[id.index()]
    }

    /// The module of the linear whose result a step reads first, at most normed or rotated on the way: of an attention,
    /// that of its queries.
    pub fn projection_of(&self, step: &Step) -> Option<ModuleId> {
        let first = |step: &Step| step.op.inputs().first().map(|operand| operand.value);
        let mut value = first(step)?;
        loop {
            let source = self.steps.iter().find(|step| step.op.output() == Some(value))?;
            match source.op {
                Op::Linear { .. } => return Some(source.module),
                Op::Rope { .. } | Op::Norm { .. } => value = first(source)?,
                _ => return None,
            }
        }
    }

    /// Whether some linear multiplies with the weight of this index; otherwise it is a table, or no matrix.
    pub(crate) fn is_multiplied(&self, index: usize) -> bool {
        let multiplies =
            |step: &Step| matches!(&step.op, Op::Linear { weight, .. } if weight.index() == index);
        self.steps.iter().any(multiplies)
    }

    /// Number of parameters, tied ones once.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(|weight| weight.shape.elements()).sum()
    }

    /// Number of layers.
    pub fn blocks(&self) -> usize {
        self.modules.iter().filter_map(|(_, module)| module.block).max().map_or(0, |last| last as usize + 1)
    }

    /// Modules that own steps, in program order.
    pub fn step_modules(&self) -> Vec<ModuleId> {
        let mut modules: Vec<ModuleId> = self.steps.iter().map(|step| step.module).collect();
        modules.dedup();
        modules
    }

    /// Holds the graph to the invariants that replay and profiling rest on.
    ///
    /// Every module owns one contiguous stretch of steps, so that it can be run again by itself; no step overwrites
    /// what it reads; every value is written before it is read, and once.
    ///
    /// # Errors
    /// [`EngineError::DuplicateModule`] or [`EngineError::Unsupported`].
    pub(crate) fn check(&self) -> Result<()> {
        let mut finished = vec![false; self.modules.len()];
        let mut previous = None;
        for step in &self.steps {
            if previous != Some(step.module) {
                if finished[step.module.index()] {
                    return Err(EngineError::DuplicateModule(self.modules.get(step.module).path.clone()));
                }
                finished[step.module.index()] = true;
                previous = Some(step.module);
            }
        }
        let mut written = vec![false; self.values.len()];
        for step in &self.steps {
            if let Some(unwritten) = step.op.inputs().iter().find(|input| !written[input.value.index()]) {
                let path = &self.modules.get(step.module).path;
                let value = unwritten.value.index();
                return Err(EngineError::Unsupported(format!(
                    "{path} reads value {value} before it is written"
                )));
            }
            if let Some(y) = step.op.output() {
                if written[y.index()] {
                    let path = &self.modules.get(step.module).path;
                    return Err(EngineError::Unsupported(format!("{path} writes value {} again", y.index())));
                }
                written[y.index()] = true;
            }
        }
        Ok(())
    }
}
