//! What each format does to the model's answers, one group at a time.
//!
//! The reference model runs once over the probe, batch by batch, and waits in front of each group in turn. From there
//! the rest is run with that group's weights in each format, everything else being the reference's: what stands before
//! the group is never run again, which saves about half of the work. A pair of group and strategy whose result is in
//! the journal is not run at all.

use std::sync::Arc;

use joulewise_engine::{
    Calibration, Op, PausedRun, PrecisionPlan, Session, Strategy, ValueId, WeightReader, WeightShape,
    WeightSource,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::divergence::{Answers, Divergence};
use super::group::Group;
use super::journal::Journal;
use super::probe::Probe;
use crate::error::Result;

/// Size of the noise that answers are tested against, relative to the root mean square of the row it is added to.
pub const PERTURBATION: f64 = 0.05;

/// What a strategy does to one group, or why it cannot be given to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was run.
    Measured(Box<Effect>),
    /// It was not, or not to an end.
    Infeasible {
        /// Why.
        cause: String,
    },
}

/// What a strategy does to one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Of the model's answers.
    pub divergence: Divergence,
    /// Squared error of the group's weights over their squares.
    pub weight_nmse: f64,
    /// Squared error of the group's outputs over their squares, its inputs being the reference's.
    pub output_nmse: f64,
    /// Bytes of the group's weights.
    pub size_bytes: f64,
}

/// What becomes of the answers when a group's outputs are changed, whatever its format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// The outputs are zero.
    pub removed: Divergence,
    /// Noise of [`PERTURBATION`] is added to the outputs.
    pub perturbed: Divergence,
}

/// A reference model in front of a probe.
pub struct Walk<'a> {
    session: &'a mut Session,
    source: &'a dyn WeightSource,
    reference: Strategy,
    calibration: Option<Arc<Calibration>>,
    probe: &'a Probe,
    passes: Vec<PausedRun>,
    answers: Vec<Answers>,
}

/// Strategies for some groups; all others keep the reference's.
pub fn plan_of<'a>(
    reference: Strategy,
    calibration: Option<&Arc<Calibration>>,
    choices: impl IntoIterator<Item = (&'a Group, Strategy)>,
) -> PrecisionPlan {
    let mut plan = PrecisionPlan { calibration: calibration.cloned(), ..reference.into() };
    for (group, strategy) in choices {
        plan.rules.extend(group.paths.iter().map(|path| (path.clone(), strategy)));
    }
    plan
}

impl<'a> Walk<'a> {
    /// Runs the reference over the probe and keeps its answers.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(
        session: &'a mut Session,
        source: &'a dyn WeightSource,
        reference: Strategy,
        calibration: Option<Arc<Calibration>>,
        probe: &'a Probe,
    ) -> Result<Self> {
        let (mut passes, mut answers) = (Vec::new(), Vec::new());
        for batch in &probe.batches {
            let pass = session.begin(&batch.tokens, probe.options)?;
            let output = session.finish(&pass)?;
            answers.push(Answers::of(output.data, output.cols));
            passes.push(pass);
        }
        Ok(Walk { session, source, reference, calibration, probe, passes, answers })
    }

    /// The reference session.
    pub fn session(&mut self) -> &mut Session {
        self.session
    }

    /// Measures every pair of a group and a strategy, and each group's impact, in program order.
    ///
    /// `on_step` is told what was done, how many are done and how many there are, and may stop by an error of its own.
    ///
    /// # Errors
    /// Those of the engine, of the journal and of `on_step`.
    pub fn measure(
        &mut self,
        groups: &[Group],
        strategies: &[Strategy],
        journal: &mut Journal,
        on_step: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
    ) -> Result<Vec<GroupSensitivity>> {
        let all = groups.len() * (strategies.len() + 1);
        let mut done = 0;
        let mut rows = Vec::with_capacity(groups.len());
        for group in groups {
            let impact = journal.once(&format!("impact {}", group.name), || self.impact(group))?;
            done += 1;
            on_step(&group.name, done, all)?;
            let mut reference_outputs = None;
            let mut outcomes = Vec::with_capacity(strategies.len());
            for strategy in strategies {
                let key = format!("sensitivity {} {strategy}", group.name);
                outcomes.push(journal.once(&key, || self.outcome(group, *strategy, &mut reference_outputs))?);
                done += 1;
                on_step(&format!("{} {strategy}", group.name), done, all)?;
            }
            rows.push(GroupSensitivity { name: group.name.clone(), impact, outcomes });
        }
        Ok(rows)
    }

    /// The divergence of a whole plan's answers.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn divergence_of(&mut self, plan: &PrecisionPlan) -> Result<Divergence> {
        let mut variant = self.session.with_plan(self.source, plan)?;
        let mut items = Vec::with_capacity(self.passes.len());
        for (batch, answers) in self.probe.batches.iter().zip(&self.answers) {
            let output = variant.forward_with(&batch.tokens, self.probe.options)?;
            items.push(answers.compare(output.data, &batch.targets));
        }
        Ok(Divergence::of(self.probe, &items))
    }

    /// Has every pass wait in front of the group's first step.
    fn reach(&mut self, group: &Group) -> Result<()> {
        for pass in &mut self.passes {
            let first = pass.program().steps().iter().position(|step| group.has(step.module));
            if let Some(first) = first.filter(|first| *first > pass.next_step()) {
                self.session.advance(pass, first)?;
            }
        }
        Ok(())
    }

    fn outcome(
        &mut self,
        group: &Group,
        strategy: Strategy,
        reference_outputs: &mut Option<Vec<Vec<f32>>>,
    ) -> Result<Outcome> {
        let infeasible = |cause: String| Ok(Outcome::Infeasible { cause });
        if !group.may_be(strategy) {
            return infeasible("tables of positions and token types keep 16 bits".to_owned());
        }
        self.reach(group)?;
        let plan = plan_of(self.reference, self.calibration.as_ref(), [(group, strategy)]);
        let mut variant = match self.session.with_plan(self.source, &plan) {
            Ok(variant) => variant,
            Err(error) => return infeasible(format!("not on this device: {error}")),
        };
        if reference_outputs.is_none() {
            let mut outputs = Vec::with_capacity(self.passes.len());
            for pass in &self.passes {
                let mut pass = pass.clone();
                let end = stretch(&pass, group);
                self.session.advance(&mut pass, end)?;
                outputs.push(written(&pass, group));
            }
            *reference_outputs = Some(outputs);
        }
        let (mut items, mut error, mut square) = (Vec::new(), 0.0, 0.0);
        for (index, (batch, answers)) in self.probe.batches.iter().zip(&self.answers).enumerate() {
            let mut pass = self.passes[index].clone();
            let end = stretch(&pass, group);
            if let Err(error) = variant.advance(&mut pass, end) {
                return infeasible(format!("not on this device: {error}"));
            }
            let expected = reference_outputs.iter().flat_map(|outputs| &outputs[index]);
            for (value, expected) in written(&pass, group).iter().zip(expected) {
                error += f64::from(value - expected).powi(2);
                square += f64::from(*expected).powi(2);
            }
            let output = variant.finish(&pass)?;
            items.push(answers.compare(output.data, &batch.targets));
        }
        let divergence = Divergence::of(self.probe, &items);
        if !divergence.is_finite || !error.is_finite() {
            return infeasible("overflow: an answer is not a finite number".to_owned());
        }
        let (weight_nmse, size_bytes) = self.weights(group, &plan)?;
        let output_nmse = if square > 0.0 { error / square } else { 0.0 };
        Ok(Outcome::Measured(Box::new(Effect { divergence, weight_nmse, output_nmse, size_bytes })))
    }

    /// Error and size of the group's weights under a plan.
    fn weights(&self, group: &Group, plan: &PrecisionPlan) -> Result<(f64, f64)> {
        let graph = self.session.graph();
        let formats = plan.weight_formats(graph);
        let (mut error, mut square, mut size_bytes) = (0.0, 0.0, 0);
        for weight in &group.weights {
            let spec = graph.weight(*weight);
            let WeightShape::Matrix { n, k } = spec.shape else { continue };
            let format = formats[weight.index()];
            let mut values = vec![0.0; n * k];
            WeightReader::open(self.source, spec)?.read_rows(0..n, &mut values)?;
            let encoded = format.encode(&values, n, k).map_err(joulewise_engine::EngineError::from)?;
            let mut decoded = vec![0.0; n * k];
            encoded.decode(&mut decoded).map_err(joulewise_engine::EngineError::from)?;
            for (value, rounded) in values.iter().zip(&decoded) {
                error += f64::from(value - rounded).powi(2);
                square += f64::from(*value).powi(2);
            }
            size_bytes += format.spec().encoded_bytes(n, k);
        }
        Ok((if square > 0.0 { error / square } else { 0.0 }, size_bytes as f64))
    }

    fn impact(&mut self, group: &Group) -> Result<Impact> {
        self.reach(group)?;
        let removed = self.changed(group, &mut |row| row.fill(0.0))?;
        let seed = group.name.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
        let mut random = Pcg64::seed_from_u64(seed);
        let perturbed = self.changed(group, &mut |row| {
            let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
            let rms = (square / row.len() as f64).sqrt();
            // A uniform distribution of this half width has a standard deviation of 1.
            let width = (3f64.sqrt() * PERTURBATION * rms) as f32;
            row.iter_mut().for_each(|value| *value += width * random.random_range(-1.0..=1.0f32));
        })?;
        Ok(Impact { removed, perturbed })
    }

    /// The divergence when every row that the group writes is changed.
    fn changed(&mut self, group: &Group, change: &mut dyn FnMut(&mut [f32])) -> Result<Divergence> {
        let mut items = Vec::with_capacity(self.passes.len());
        for (index, batch) in self.probe.batches.iter().enumerate() {
            let mut pass = self.passes[index].clone();
            let program = pass.program().clone();
            let steps = program.steps().iter().enumerate();
            for (index, step) in steps.filter(|(_, step)| group.has(step.module)) {
                let Some(value) = output(&step.op) else { continue };
                self.session.advance(&mut pass, index + 1)?;
                let (_, cols) = program.shape(value);
                if let Some(values) = pass.value_mut(value) {
                    values.chunks_exact_mut(cols).for_each(&mut *change);
                }
            }
            let output = self.session.finish(&pass)?;
            items.push(self.answers[index].compare(output.data, &batch.targets));
        }
        Ok(Divergence::of(self.probe, &items))
    }
}

/// What was found out of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSensitivity {
    /// Name of the group.
    pub name: String,
    /// Its impact.
    pub impact: Impact,
    /// By strategy, in the order of the list.
    pub outcomes: Vec<Outcome>,
}

/// The value a matrix product or a look-up writes.
fn output(op: &Op) -> Option<ValueId> {
    match op {
        Op::Embed { y, .. } | Op::Linear { y, .. } => Some(*y),
        _ => None,
    }
}

/// The end of the steps of a group that follow each other from where a pass waits. A tied head is another stretch than
/// its table, whose inputs would not be the reference's any more.
fn stretch(pass: &PausedRun, group: &Group) -> usize {
    let steps = &pass.program().steps()[pass.next_step()..];
    pass.next_step() + steps.iter().take_while(|step| group.has(step.module)).count()
}

/// What the group has written by the time a pass waits behind it.
fn written(pass: &PausedRun, group: &Group) -> Vec<f32> {
    let steps = &pass.program().steps()[..pass.next_step()];
    let values = steps.iter().filter(|step| group.has(step.module)).filter_map(|step| output(&step.op));
    values.filter_map(|value| pass.value(value)).flatten().copied().collect()
}
