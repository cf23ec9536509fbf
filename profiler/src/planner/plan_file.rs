//! `plan.toml`: which module is kept in which format, for programs to run and for people to edit.
//!
//! ```toml
//! schema = 1
//! strategy = "fp32"                       # what no rule names
//!
//! [[rule]]                                # the last rule that matches wins; `*` stands for any characters
//! match = ["h.*.mlp.c_fc"]
//! use = "int8-weight"
//! pin = true                              # planning again keeps this
//! ```
//! Whatever else the file holds is a record of how the plan was made; nothing depends on it.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use joulewise_engine::{Calibration, ModelGraph, PrecisionPlan, Strategy};
use serde::{Deserialize, Serialize};

use super::document::Study;
use super::group::Group;
use super::problem::Objective;
use super::reason::Alternative;
use crate::error::{ProfilerError, Result};
use crate::report::quantity::si;

/// Version of the file that this program writes.
const SCHEMA: u32 = 1;

/// A plan as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    schema: u32,
    strategy: String,
    #[serde(default)]
    rule: Vec<Rule>,
    /// Largest magnitude of the inputs of modules whose scales are static, by path.
    #[serde(default)]
    calibration: std::collections::BTreeMap<String, f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rule {
    #[serde(rename = "match")]
    patterns: Patterns,
    #[serde(rename = "use")]
    strategy: String,
    #[serde(default)]
    pin: bool,
}

/// One pattern, or several for one strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Several(Vec<String>),
}

impl Rule {
    fn patterns(&self) -> &[String] {
        match &self.patterns {
            Patterns::One(pattern) => std::slice::from_ref(pattern),
            Patterns::Several(patterns) => patterns,
        }
    }
}

impl PlanFile {
    /// Reads a plan.
    ///
    /// # Errors
    /// [`ProfilerError::Malformed`] with the line, when it is no plan or names an unknown strategy.
    pub fn read(path: &Path) -> Result<PlanFile> {
        let text = std::fs::read_to_string(path).map_err(ProfilerError::io(path))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<PlanFile> {
        let malformed = |line: usize, expected: &str, got: String| ProfilerError::Malformed {
            path: path.to_owned(),
            line: line as u64,
            expected: expected.to_owned(),
            got,
        };
        let file: PlanFile = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
            malformed(
                line,
                "a plan (`schema`, `strategy`, `[[rule]]` with `match` and `use`)",
                error.message().to_owned(),
            )
        })?;
        if file.schema != SCHEMA {
            return Err(malformed(1, &format!("schema {SCHEMA}"), format!("schema {}", file.schema)));
        }
        for name in [&file.strategy].into_iter().chain(file.rule.iter().map(|rule| &rule.strategy)) {
            if let Err(error) = name.parse::<Strategy>() {
                let line = text.lines().position(|line| line.contains(&format!("\"{name}\""))).unwrap_or(0);
                return Err(malformed(line + 1, "a strategy", error.to_string()));
            }
        }
        Ok(file)
    }

    /// The plan for the engine.
    ///
    /// # Errors
    /// When a rule fits no module of the model, or modules that share one scheme disagree.
    pub fn precision_plan(&self, graph: &ModelGraph) -> Result<PrecisionPlan> {
        let strategy = |name: &str| name.parse::<Strategy>();
        let mut rules = Vec::new();
        for rule in &self.rule {
            for pattern in rule.patterns() {
                rules.push((pattern.clone(), strategy(&rule.strategy)?));
            }
        }
        let calibration = (!self.calibration.is_empty())
            .then(|| Arc::new(Calibration { ranges: self.calibration.clone() }));
        let plan = PrecisionPlan { strategy: strategy(&self.strategy)?, rules, calibration };
        self.check(graph, &plan)?;
        Ok(plan)
    }

    fn check(&self, graph: &ModelGraph, plan: &PrecisionPlan) -> Result<()> {
        let groups = Group::of_model(graph);
        for (pattern, strategy) in &plan.rules {
            // A rule by itself tells whom it reaches.
            let alone = PrecisionPlan { rules: vec![(pattern.clone(), *strategy)], ..Strategy::Fp32.into() };
            let other = if *strategy == Strategy::Fp32 { Strategy::Fp16 } else { *strategy };
            let probe = PrecisionPlan { rules: vec![(pattern.clone(), other)], ..alone };
            let reached = |group: &Group| {
                let modules = group.modules.iter().map(|module| graph.modules.get(*module));
                modules.into_iter().any(|m| probe.precision(m) == other.precision())
            };
            let Some(group) = groups.iter().find(|group| reached(group)) else {
                let message = format!("the plan's rule `{pattern}` fits no module with weights");
                return Err(ProfilerError::Protocol(message));
            };
            if !group.may_be(*strategy) && groups.iter().filter(|group| reached(group)).count() == 1 {
                let message = format!(
                    "{}: tables of positions and token types keep 16 bits, not {strategy}",
                    group.name
                );
                return Err(ProfilerError::Protocol(message));
            }
        }
        for group in &groups {
            let mut precisions =
                group.modules.iter().map(|module| plan.precision(graph.modules.get(*module)));
            let first = precisions.next();
            if let Some(other) =
                precisions.find(|other| Some(other.weight) != first.map(|first| first.weight))
            {
                let first = first.map_or("", |first| first.weight.name());
                return Err(ProfilerError::Protocol(format!(
                    "{} have one scheme together, and the plan gives them {first} and {}",
                    group.name,
                    other.weight.name()
                )));
            }
        }
        Ok(())
    }

    /// The rows that a person has pinned: paths of modules and their strategies.
    ///
    /// # Errors
    /// As [`PlanFile::precision_plan`].
    pub fn pinned(&self, graph: &ModelGraph) -> Result<Vec<(String, Strategy)>> {
        self.precision_plan(graph)?;
        let mut pinned = Vec::new();
        for group in Group::of_model(graph) {
            for path in &group.paths {
                let fits = |rule: &&Rule| rule.patterns().iter().any(|pattern| fits(pattern, path));
                if let Some(rule) = self.rule.iter().rev().find(fits).filter(|rule| rule.pin) {
                    pinned.push((path.clone(), rule.strategy.parse()?));
                }
            }
        }
        Ok(pinned)
    }
}

/// Whether a path fits a pattern, by the engine's own rule.
fn fits(pattern: &str, path: &str) -> bool {
    let kind = joulewise_engine::ModuleKind::MlpUp;
    let module = joulewise_engine::Module { path: path.to_owned(), kind, block: None, parent: None };
    let plan = PrecisionPlan { rules: vec![(pattern.to_owned(), Strategy::Fp16)], ..Strategy::Fp32.into() };
    plan.precision(&module) == Strategy::Fp16.precision()
}

/// The text of a study's plan, with the reason for each row as a comment.
pub fn write(study: &Study, calibration: &Calibration) -> String {
    let mut text = String::new();
    let chosen = &study.chosen;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line(format!(
        "# Which module of {} is kept in which format, planned by {}.",
        study.model, study.generator
    ));
    line(
        "# Edit `use`, set `pin = true` on rows that planning again must keep, and run with --plan FILE."
            .into(),
    );
    line(format!("schema = {SCHEMA}"));
    line(format!("strategy = {}   # what no rule names", quoted(&study.strategies[0])));
    for (index, group) in study.groups.iter().enumerate() {
        let strategy = &chosen.strategies[index];
        let reason = &chosen.reasons[index];
        line(String::new());
        line("[[rule]]".into());
        let patterns: Vec<String> = group.paths.iter().map(|path| quoted(path)).collect();
        line(format!("match = [{}]", patterns.join(", ")));
        line(format!("use = {}", quoted(strategy)));
        if chosen.pinned[index] {
            line("pin = true".into());
        }
        for text in reasons(study, index, reason.cheaper.as_ref(), reason.safer.as_ref()) {
            line(format!("# {text}"));
        }
    }
    line("\n[budget]".into());
    line(format!("minimize = {}", quoted(study.objective.name())));
    line("metric = \"kl_mean_nats\"".into());
    if let Some(limit) = study.limits.sensitivity_nats {
        line(format!("max = {limit}"));
    }
    let shape = &study.request;
    line("\n[workload]".into());
    line(format!(
        "batch = {}\nprompt_tokens = {}\ngenerated_tokens = {}",
        shape.batch, shape.prompt_tokens, shape.generated_tokens
    ));
    line(format!("device = {}", quoted(&study.device)));
    line("\n[predicted]   # per request".into());
    line(format!("energy_j = {}", chosen.predicted.energy_j));
    line(format!("reference_energy_j = {}", chosen.reference.energy_j));
    line(format!("duration_s = {}", chosen.predicted.duration_s));
    line(format!("size_bytes = {}", chosen.predicted.size_bytes));
    line(format!("kl_nats = {}", chosen.predicted.sensitivity_nats));
    line(format!("provenance = {}", quoted(study.costs.provenance.name())));
    if let Some(plan) = study.verified_plan() {
        line(format!("\n[verified]   # on {}", study.holdout.source));
        let energy = plan.cost(plan, Objective::Energy);
        line(format!("energy_j = {}", energy.value));
        line(format!("kl_nats = {}", plan.divergence.kl_nats.mean));
        line(format!("loss = {}", quoted(study.loss_verdict.name())));
        line(format!("saving = {}", quoted(study.cost_verdict.name())));
    }
    let is_static = |index: usize| chosen.strategies[index] == Strategy::Int8.name();
    let paths = study.groups.iter().enumerate().filter(|(index, _)| is_static(*index));
    let ranges: Vec<(&String, f32)> = paths
        .flat_map(|(_, group)| &group.paths)
        .filter_map(|path| Some((path, *calibration.ranges.get(path)?)))
        .collect();
    if !ranges.is_empty() {
        line("\n[calibration]   # largest magnitude of the inputs, for static scales".into());
        ranges.iter().for_each(|(path, range)| line(format!("{} = {range:?}", quoted(path))));
    }
    text
}

/// Why a group got what it got, in sentences.
pub fn reasons(
    study: &Study,
    index: usize,
    cheaper: Option<&Alternative>,
    safer: Option<&Alternative>,
) -> Vec<String> {
    let nats = |nats: f64| si(nats, "nats");
    let cost = |cost: f64| si(cost, study.objective.unit());
    let mut lines = Vec::new();
    let group = &study.groups[index];
    let place = study.strategies.iter().position(|name| *name == study.chosen.strategies[index]);
    if let Some(cost) = place.and_then(|place| group.pairs[place].cost).filter(|_| place != Some(0)) {
        lines.push(format!(
            "saves {} of {} per request",
            si(cost.saving_j, "J"),
            si(cost.saving_j + cost.energy_j, "J")
        ));
    }
    match cheaper {
        Some(other) => lines.push(format!(
            "{} would save {} more and cost {} ({} per nat)",
            study.strategies[other.strategy],
            cost(-other.cost_change),
            nats(other.sensitivity_change_nats),
            cost(other.rate_per_nat()),
        )),
        None => lines.push("nothing that can be chosen here costs less".to_owned()),
    }
    if let Some(other) = safer {
        lines.push(format!(
            "{} would give back {} for {}",
            study.strategies[other.strategy],
            nats(-other.sensitivity_change_nats),
            cost(other.cost_change),
        ));
    }
    let causes = group.pairs.iter().zip(&study.strategies);
    let mut excluded: Vec<(&String, Vec<&str>)> = Vec::new();
    for (cause, name) in causes.filter_map(|(pair, name)| Some((pair.excluded.as_ref()?, name))) {
        match excluded.iter_mut().find(|(other, _)| *other == cause) {
            Some((_, names)) => names.push(name),
            None => excluded.push((cause, vec![name])),
        }
    }
    lines.extend(excluded.iter().map(|(cause, names)| format!("not {}: {cause}", names.join(", "))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PlanFile> {
        PlanFile::parse(Path::new("plan.toml"), text)
    }

    #[test]
    fn what_a_person_writes_is_read() {
        let plan = parse(
            "schema = 1\nstrategy = \"fp16\"\n[[rule]]\nmatch = \"h.*\"\nuse = \"int4\"\n\
             [[rule]]\nmatch = [\"a\", \"b\"]\nuse = \"fp32\"\npin = true\n[budget]\nmax = 1.0\n",
        );
        let plan = plan.unwrap();
        assert_eq!(plan.rule[1].patterns(), ["a", "b"]);
        assert!(plan.rule[1].pin && !plan.rule[0].pin);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, expected) in [
            ("schema = 1\nstrategy = \"fp99\"\n", "plan.toml:2: expected a strategy"),
            ("schema = 7\nstrategy = \"fp16\"\n", "expected schema 1, got schema 7"),
            ("schema = 1\nstrategy = \"fp16\"\n[[rule]]\nuse = \"int4\"\n", "plan.toml:3: "),
            ("schema = 1\nstrategy = fp16\n", "plan.toml:2: "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
