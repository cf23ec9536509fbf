//! Modules: the named parts of a model that time and energy are attributed to.
//!
//! A module's path is the checkpoint's own name (`transformer.h.3.mlp.c_fc`), so that a row of a profile, a rule of
//! a precision plan and a tensor of the file speak of the same thing.

use std::collections::HashMap;
use std::fmt;

use crate::error::{EngineError, Result};

/// Index of a module in its [`ModuleTree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

impl ModuleId {
    /// The whole model.
    pub const ROOT: ModuleId = ModuleId(0);

    /// As an index into per-module tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a module does, to add up like with like across layers and families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ModuleKind {
    /// The model, a layer: a parent that owns no step itself.
    Container,
    /// Token, position and type tables.
    Embedding,
    /// LayerNorm or RMSNorm.
    Norm,
    /// Query, key and value projections, fused or apart.
    QkvProjection,
    /// Scores, softmax and weighted sum, with rotary embedding and cache write where there are any.
    Attention,
    /// The projection behind attention.
    OutputProjection,
    /// First projection (or gate and up) of an MLP.
    MlpUp,
    /// The non-linearity of an MLP.
    MlpActivation,
    /// Last projection of an MLP.
    MlpDown,
    /// Residual additions and sums of embeddings.
    Residual,
    /// What turns token rows into one row per sequence.
    Pooler,
    /// Language-model or classification head.
    Head,
}

impl ModuleKind {
    /// Every kind that can own steps, in the order of a forward pass.
    pub const ALL: &'static [ModuleKind] = &[
        ModuleKind::Embedding,
        ModuleKind::Norm,
        ModuleKind::QkvProjection,
        ModuleKind::Attention,
        ModuleKind::OutputProjection,
        ModuleKind::MlpUp,
        ModuleKind::MlpActivation,
        ModuleKind::MlpDown,
        ModuleKind::Residual,
        ModuleKind::Pooler,
        ModuleKind::Head,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            ModuleKind::Container => "container",
            ModuleKind::Embedding => "embedding",
            ModuleKind::Norm => "norm",
            ModuleKind::QkvProjection => "attention.qkv",
            ModuleKind::Attention => "attention.core",
            ModuleKind::OutputProjection => "attention.output",
            ModuleKind::MlpUp => "mlp.up",
            ModuleKind::MlpActivation => "mlp.activation",
            ModuleKind::MlpDown => "mlp.down",
            ModuleKind::Residual => "residual",
            ModuleKind::Pooler => "pooler",
            ModuleKind::Head => "head",
        }
    }
}

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The checkpoint's own name, `""` for the root.
    pub path: String,
    /// What it does.
    pub kind: ModuleKind,
    /// The layer it belongs to, `None` outside the layers.
    pub block: Option<u32>,
    /// The module whose path is the longest prefix of this one.
    pub parent: Option<ModuleId>,
}

/// All modules of a model, in the order in which they were built.
#[derive(Clone, Debug)]
pub struct ModuleTree {
    modules: Vec<Module>,
    by_path: HashMap<String, ModuleId>,
}

impl Default for ModuleTree {
    fn default() -> Self {
        let root = Module { path: String::new(), kind: ModuleKind::Container, block: None, parent: None };
        ModuleTree { modules: vec![root], by_path: HashMap::from([(String::new(), ModuleId::ROOT)]) }
    }
}

impl ModuleTree {
    /// The module with this id.
    ///
    /// # Panics
    /// When the id comes from another model's tree and is out of range.
    pub fn get(&self, id: ModuleId) -> &Module {
        &self.modules[id.index()]
    }

    /// All modules with their ids, the root first.
    pub fn iter(&self) -> impl Iterator<Item = (ModuleId, &Module)> {
        self.modules.iter().enumerate().map(|(i, module)| (ModuleId(i as u32), module))
    }

    /// Number of modules, the root included.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The module with this path.
    ///
    /// # Errors
    /// [`EngineError::UnknownModule`].
    pub fn find(&self, path: &str) -> Result<ModuleId> {
        self.by_path.get(path).copied().ok_or_else(|| EngineError::UnknownModule(path.to_owned()))
    }

    /// Whether `module` lies inside `ancestor`, at any depth.
    pub fn is_below(&self, module: ModuleId, ancestor: ModuleId) -> bool {
        let mut id = self.get(module).parent;
        while let Some(parent) = id {
            if parent == ancestor {
                return true;
            }
            id = self.get(parent).parent;
        }
        false
    }

    /// Adds a module; a container may be asked for again, and becomes `kind` when it turns out to own steps.
    pub(crate) fn add(&mut self, path: &str, kind: ModuleKind, block: Option<u32>) -> Result<ModuleId> {
        if let Some(&id) = self.by_path.get(path) {
            let existing = &mut self.modules[id.index()];
            return match (existing.kind, kind) {
                (_, ModuleKind::Container) => Ok(id),
                (ModuleKind::Container, _) => {
                    existing.kind = kind;
                    Ok(id)
                }
                _ => Err(EngineError::DuplicateModule(path.to_owned())),
            };
        }
        let mut parent_path = path;
        let mut parent = ModuleId::ROOT;
        while let Some(dot) = parent_path.rfind('.') {
            parent_path = &parent_path[..dot];
            if let Some(&id) = self.by_path.get(parent_path) {
                parent = id;
                break;
            }
        }
        let id = ModuleId(self.modules.len() as u32);
        self.modules.push(Module { path: path.to_owned(), kind, block, parent: Some(parent) });
        self.by_path.insert(path.to_owned(), id);
        Ok(id)
    }
}
