//! Which number format each module's weights are kept in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use joulewise_kernels::format::Format;

use crate::error::{EngineError, Result};
use crate::graph::ModelGraph;
use crate::module::{Module, ModuleKind};
use crate::op::Op;

/// A uniform choice of precision that users name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// f32 weights and activations.
    Fp32,
    /// f16 weights, f32 activations and accumulation on the CPU.
    Fp16,
    /// bf16 weights, f32 activations and accumulation on the CPU.
    Bf16,
}

/// A row of the strategy table.
struct StrategySpec {
    strategy: Strategy,
    name: &'static str,
    /// Format of the weights of linears.
    linear: Format,
    /// Format of embedding tables and heads.
    table: Format,
}

const STRATEGIES: &[StrategySpec] = &[
    StrategySpec { strategy: Strategy::Fp32, name: "fp32", linear: Format::F32, table: Format::F32 },
    StrategySpec { strategy: Strategy::Fp16, name: "fp16", linear: Format::F16, table: Format::F16 },
    StrategySpec { strategy: Strategy::Bf16, name: "bf16", linear: Format::Bf16, table: Format::Bf16 },
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

    /// Weight format of a module of this kind.
    pub fn format(self, kind: ModuleKind) -> Format {
        match kind {
            ModuleKind::Embedding | ModuleKind::Head => self.spec().table,
            _ => self.spec().linear,
        }
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
    /// `(pattern, format)`: `*` stands for any run of characters; the last matching rule wins.
    pub rules: Vec<(String, Format)>,
}

impl From<Strategy> for PrecisionPlan {
    fn from(strategy: Strategy) -> Self {
        PrecisionPlan { strategy, rules: Vec::new() }
    }
}

impl PrecisionPlan {
    /// Weight format of a module.
    pub fn format(&self, module: &Module) -> Format {
        let rule = self.rules.iter().rev().find(|(pattern, _)| matches(pattern, &module.path));
        rule.map_or_else(|| self.strategy.format(module.kind), |(_, format)| *format)
    }

    /// Format of each weight of a model. A weight that several modules use (a tied head) gets the widest format that
    /// any of them asks for.
    pub fn weight_formats(&self, graph: &ModelGraph) -> Arc<[Format]> {
        let mut formats: Vec<Format> =
            graph.weights.iter().map(|weight| self.format(graph.modules.get(weight.module))).collect();
        for step in &graph.steps {
            if let Op::Linear { weight, .. } = &step.op {
                let asked = self.format(graph.modules.get(step.module));
                let format = &mut formats[weight.index()];
                if asked.spec().bits_per_weight > format.spec().bits_per_weight {
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
        for strategy in [Strategy::Fp32, Strategy::Fp16, Strategy::Bf16] {
            assert_eq!(strategy.spec().strategy, strategy);
            assert_eq!(strategy.name().parse::<Strategy>().unwrap(), strategy);
        }
        assert!("fp31".parse::<Strategy>().is_err());
    }

    #[test]
    fn the_last_matching_rule_wins() {
        let module = |path: &str, kind| Module { path: path.into(), kind, block: None, parent: None };
        let plan = PrecisionPlan {
            strategy: Strategy::Fp16,
            rules: vec![("h.*.c_fc".into(), Format::Bf16), ("h.3.*".into(), Format::F32)],
        };
        assert_eq!(plan.format(&module("h.1.mlp.c_fc", ModuleKind::MlpUp)), Format::Bf16);
        assert_eq!(plan.format(&module("h.3.mlp.c_fc", ModuleKind::MlpUp)), Format::F32);
        assert_eq!(plan.format(&module("h.1.mlp.c_proj", ModuleKind::MlpDown)), Format::F16);
    }

    #[test]
    fn patterns_cover_the_whole_path() {
        assert!(matches("*", "anything"));
        assert!(matches("h.*.c_proj", "h.1.c_proj.2.c_proj"));
        assert!(!matches("h.1", "h.11"));
        assert!(!matches("h.*.c_fc", "h.1.c_fc.x"));
    }
}
