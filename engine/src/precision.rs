//! Which number format each module's weights are kept in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use joulewise_kernels::args::{AttentionProducts, InputRounding};
use joulewise_kernels::format::Format;

use crate::calibration::Calibration;
use crate::error::{EngineError, Result};
use crate::graph::ModelGraph;
use crate::module::{Module, ModuleKind};
use crate::op::Op;

/// A choice of precision that users name: for a whole model, or for single modules by the rules of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Strategy {
    /// f32 weights and activations.
    Fp32,
    /// f16 weights, f32 activations and accumulation on the CPU.
    Fp16,
    /// bf16 weights, f32 activations and accumulation on the CPU, activations rounded to bf16 on their way into tiles.
    Bf16,
    /// 8-bit integer weights and activations, the scales of the activations from a calibration.
    Int8,
    /// 8-bit integer weights and activations, the scales of the activations per token at run time.
    Int8Dynamic,
    /// 8-bit integer weights.
    Int8Weight,
    /// 8-bit float (E4M3) weights and activations, the scales of the activations per token at run time.
    Fp8,
    /// 8-bit float (E4M3) weights.
    Fp8Weight,
    /// 8-bit float (E5M2) weights.
    Fp8E5m2Weight,
    /// 4-bit integer weights in blocks.
    Int4,
    /// 4-bit weights on the quantiles of the normal distribution.
    Nf4,
    /// 4-bit float weights in blocks of 32.
    Mxfp4,
    /// 4-bit float weights in blocks of 16.
    Nvfp4,
}

/// Where the scales of 8-bit activations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationMode {
    /// Activations are not rounded beyond what the device computes in.
    Float,
    /// From each token's own values.
    Dynamic,
    /// From a [`Calibration`].
    Static,
}

/// What a strategy means for one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    /// Format of the weights.
    pub weight: Format,
    /// What happens to the inputs of the products.
    pub activation: ActivationMode,
}

impl Precision {
    /// What the products of an attention without weights of its own may round: where 8 bits of inputs are enough for the
    /// products around it, or 8 significant bits of weights, bf16 is enough for it.
    pub fn attention_products(self) -> AttentionProducts {
        match self {
            Precision { weight: Format::Bf16, .. }
            | Precision { activation: ActivationMode::Dynamic | ActivationMode::Static, .. } => {
                AttentionProducts::Bf16
            }
            _ => AttentionProducts::F32,
        }
    }
}

/// A row of the strategy table.
struct StrategySpec {
    strategy: Strategy,
    name: &'static str,
    /// Weights and inputs of linears, and of whatever a rule names.
    precision: Precision,
    /// Format of embedding tables and heads that no rule names.
    table: Format,
}

const fn row(
    strategy: Strategy,
    name: &'static str,
    weight: Format,
    activation: ActivationMode,
    table: Format,
) -> StrategySpec {
    StrategySpec { strategy, name, precision: Precision { weight, activation }, table }
}

const STRATEGIES: &[StrategySpec] = &[
    row(Strategy::Fp32, "fp32", Format::F32, ActivationMode::Float, Format::F32),
    row(Strategy::Fp16, "fp16", Format::F16, ActivationMode::Float, Format::F16),
    row(Strategy::Bf16, "bf16", Format::Bf16, ActivationMode::Float, Format::Bf16),
    row(Strategy::Int8, "int8", Format::Int8, ActivationMode::Static, Format::F16),
    row(Strategy::Int8Dynamic, "int8-dynamic", Format::Int8, ActivationMode::Dynamic, Format::F16),
    row(Strategy::Int8Weight, "int8-weight", Format::Int8, ActivationMode::Float, Format::F16),
    row(Strategy::Fp8, "fp8", Format::Fp8E4m3, ActivationMode::Dynamic, Format::F16),
    row(Strategy::Fp8Weight, "fp8-weight", Format::Fp8E4m3, ActivationMode::Float, Format::F16),
    row(Strategy::Fp8E5m2Weight, "fp8-e5m2-weight", Format::Fp8E5m2, ActivationMode::Float, Format::F16),
    row(Strategy::Int4, "int4", Format::Int4, ActivationMode::Float, Format::F16),
    row(Strategy::Nf4, "nf4", Format::Nf4, ActivationMode::Float, Format::F16),
    row(Strategy::Mxfp4, "mxfp4", Format::Mxfp4, ActivationMode::Float, Format::F16),
    row(Strategy::Nvfp4, "nvfp4", Format::Nvfp4, ActivationMode::Float, Format::F16),
];

impl Strategy {
    /// Every strategy.
    pub fn all() -> impl Iterator<Item = Strategy> {
        STRATEGIES.iter().map(|row| row.strategy)
    }

    fn spec(self) -> &'static StrategySpec {
        // The table has a row for every variant; the test below holds it to that.
        STRATEGIES.iter().find(|row| row.strategy == self).unwrap_or(&STRATEGIES[0])
    }

    /// Name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// What it means for a module that it is given by name.
    pub fn precision(self) -> Precision {
        self.spec().precision
    }

    /// What it means for a module of this kind that no rule names: embedding tables and heads keep 16 bits.
    pub fn precision_of(self, kind: ModuleKind) -> Precision {
        match kind {
            ModuleKind::Embedding | ModuleKind::Head => {
                Precision { weight: self.spec().table, activation: ActivationMode::Float }
            }
            _ => self.spec().precision,
        }
    }

    /// The format that values which are not weights, such as a cache, are kept in beside such weights.
    pub fn cache_format(self) -> Format {
        self.spec().table
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        STRATEGIES.iter().find(|row| row.name == name).map(|row| row.strategy).ok_or_else(|| {
            let known = STRATEGIES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            EngineError::UnknownStrategy { name: name.to_owned(), known }
        })
    }
}

/// A strategy and the modules that depart from it.
#[derive(Clone, Debug)]
pub struct PrecisionPlan {
    /// What every module gets that no rule names.
    pub strategy: Strategy,
    /// `(pattern, strategy)`: `*` stands for any run of characters; the last matching rule wins. A rule reaches
    /// embeddings and heads too.
    pub rules: Vec<(String, Strategy)>,
    /// The ranges of activations, for [`ActivationMode::Static`].
    pub calibration: Option<Arc<Calibration>>,
}

impl From<Strategy> for PrecisionPlan {
    fn from(strategy: Strategy) -> Self {
        PrecisionPlan { strategy, rules: Vec::new(), calibration: None }
    }
}

impl PrecisionPlan {
    /// Precision of a module, apart from what sharing a weight does to it.
    pub fn precision(&self, module: &Module) -> Precision {
        let rule = self.rules.iter().rev().find(|(pattern, _)| matches(pattern, &module.path));
        rule.map_or_else(|| self.strategy.precision_of(module.kind), |(_, strategy)| strategy.precision())
    }

    /// Whether any module of a model needs a [`Calibration`].
    pub fn needs_calibration(&self, graph: &ModelGraph) -> bool {
        graph.steps.iter().any(|step| {
            matches!(step.op, Op::Linear { .. })
                && self.precision(graph.modules.get(step.module)).activation == ActivationMode::Static
        })
    }

    /// How the inputs of the linear of each module are rounded, by module.
    ///
    /// A linear whose shared weight is wider than it asked for rounds nothing.
    ///
    /// # Errors
    /// [`EngineError::MissingCalibration`] when a module asks for static scales that the plan does not have.
    pub fn input_roundings(&self, graph: &ModelGraph) -> Result<Arc<[InputRounding]>> {
        let formats = self.weight_formats(graph);
        let mut roundings = vec![InputRounding::None; graph.modules.len()];
        for step in &graph.steps {
            let Op::Linear { weight, .. } = &step.op else { continue };
            let module = graph.modules.get(step.module);
            let precision = self.precision(module);
            if precision.weight != formats[weight.index()] {
                continue;
            }
            roundings[step.module.0 as usize] = match precision.activation {
                ActivationMode::Float => InputRounding::None,
                ActivationMode::Dynamic => InputRounding::PerToken,
                ActivationMode::Static => {
                    let calibration = self.calibration.as_ref();
                    let scale = calibration.and_then(|ranges| ranges.scale(&module.path, precision.weight));
                    let missing = || EngineError::MissingCalibration(module.path.clone());
                    InputRounding::Static { scale: scale.ok_or_else(missing)? }
                }
            };
        }
        Ok(roundings.into())
    }

    /// What the products of each module's attention may round, by module. An attention has no weights that a rule could
    /// name: it goes with the projection of its queries.
    pub fn attention_products(&self, graph: &ModelGraph) -> Arc<[AttentionProducts]> {
        let mut products = vec![AttentionProducts::F32; graph.modules.len()];
        for step in graph.steps.iter().filter(|step| matches!(step.op, Op::Attention { .. })) {
            let deciding = graph.projection_of(step).unwrap_or(step.module);
            let precision = self.precision(graph.modules.get(deciding));
            products[step.module.index()] = precision.attention_products();
        }
        products.into()
    }

    /// Format of each weight of a model. A weight that several modules use (a tied head) gets the widest format that
    /// any of them asks for.
    pub fn weight_formats(&self, graph: &ModelGraph) -> Arc<[Format]> {
        let mut formats: Vec<Format> = graph
            .weights
            .iter()
            .map(|weight| self.precision(graph.modules.get(weight.module)).weight)
            .collect();
        for step in &graph.steps {
            if let Op::Linear { weight, .. } = &step.op {
                let asked = self.precision(graph.modules.get(step.module)).weight;
                let format = &mut formats[weight.index()];
                if asked.spec().bits_per_weight() > format.spec().bits_per_weight() {
                    *format = asked;
                }
            }
        }
        formats.into()
    }
}

/// Whether `path` fits `pattern`, where `*` stands for any run of characters.
fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = path.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut rest = rest;
    let mut last_part = None;
    for part in parts {
        last_part = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    match last_part {
        None => rest.is_empty(),
        // The last literal must close the path, wherever its first occurrence was.
        Some(part) => path.ends_with(part) || part.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_its_own_row() {
        for strategy in [
            Strategy::Fp32,
            Strategy::Fp16,
            Strategy::Bf16,
            Strategy::Int8,
            Strategy::Int8Dynamic,
            Strategy::Int8Weight,
            Strategy::Fp8,
            Strategy::Fp8Weight,
            Strategy::Fp8E5m2Weight,
            Strategy::Int4,
            Strategy::Nf4,
            Strategy::Mxfp4,
            Strategy::Nvfp4,
        ] {
            assert_eq!(strategy.spec().strategy, strategy);
            assert_eq!(strategy.name().parse::<Strategy>().unwrap(), strategy);
        }
        assert!("fp31".parse::<Strategy>().is_err());
    }

    #[test]
    fn the_last_matching_rule_wins() {
        let module = |path: &str, kind| Module { path: path.into(), kind, block: None, parent: None };
        let rules = [("h.*.c_fc", Strategy::Int4), ("h.3.*", Strategy::Fp32), ("wte", Strategy::Int8Weight)];
        let rules = rules.map(|(pattern, strategy)| (pattern.to_owned(), strategy)).into();
        let plan = PrecisionPlan { rules, ..Strategy::Int8Dynamic.into() };
        let weight = |path, kind| plan.precision(&module(path, kind)).weight;
        assert_eq!(weight("h.1.mlp.c_fc", ModuleKind::MlpUp), Format::Int4);
        assert_eq!(weight("h.3.mlp.c_fc", ModuleKind::MlpUp), Format::F32);
        assert_eq!(weight("wte", ModuleKind::Embedding), Format::Int8);
        // Without a rule embeddings and heads keep 16 bits.
        assert_eq!(weight("wpe", ModuleKind::Embedding), Format::F16);
        let linear = plan.precision(&module("h.1.mlp.c_proj", ModuleKind::MlpDown));
        assert_eq!(linear, Precision { weight: Format::Int8, activation: ActivationMode::Dynamic });
    }

    #[test]
    fn patterns_cover_the_whole_path() {
        assert!(matches("*", "anything"));
        assert!(matches("h.*.c_proj", "h.1.c_proj.2.c_proj"));
        assert!(!matches("h.1", "h.11"));
        assert!(!matches("h.*.c_fc", "h.1.c_fc.x"));
    }
}
