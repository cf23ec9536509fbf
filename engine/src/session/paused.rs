//! Forward passes that stop between two steps, and sessions that differ in a few weights.
//!
//! Whoever asks what one changed weight does to the result need not run what stands before it again: a pass is paused
//! in front of the step that uses the weight, and finished by each session that has another version of it. What a
//! paused pass keeps are copies on the host of the values that its remaining steps read, so it can be finished more
//! than once, by any session of the same model, and with values that were changed in between.

use std::ops::Range;
use std::sync::Arc;

use super::{ForwardOptions, Output, Prepared, Session};
use crate::backend::StepInputs;
use crate::batch::TokenBatch;
use crate::error::{EngineError, Result};
use crate::op::ValueId;
use crate::precision::PrecisionPlan;
use crate::program::Program;
use crate::weight::{WeightId, WeightSource};

/// A forward pass between two of its steps.
#[derive(Clone, Debug)]
pub struct PausedRun {
    program: Arc<Program>,
    inputs: StepInputs,
    next_step: usize,
    values: Vec<(ValueId, Vec<f32>)>,
}

impl PausedRun {
    /// The program that is being run.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The step that comes next.
    pub fn next_step(&self) -> usize {
        self.next_step
    }

    /// A value that remaining steps read, `[rows, cols]` row-major; `None` when none of them does.
    pub fn value(&self, value: ValueId) -> Option<&[f32]> {
        let stands_for = self.program.alias(value);
        self.values.iter().find(|(id, _)| *id == stands_for).map(|(_, data)| data.as_slice())
    }

    /// The same, to be changed: the remaining steps read what is put there.
    pub fn value_mut(&mut self, value: ValueId) -> Option<&mut [f32]> {
        let stands_for = self.program.alias(value);
        self.values.iter_mut().find(|(id, _)| *id == stands_for).map(|(_, data)| data.as_mut_slice())
    }

    /// Bytes of the values it keeps.
    pub fn size_bytes(&self) -> usize {
        self.values.iter().map(|(_, data)| size_of_val(data.as_slice())).sum()
    }

    /// What is written before `step` and read by it or later, the result included.
    fn live(&self, step: usize) -> Vec<ValueId> {
        let program = &self.program;
        let (before, after) = program.steps().split_at(step);
        let read = after.iter().flat_map(|step| step.op.inputs()).map(|operand| operand.value);
        let mut live: Vec<ValueId> =
            read.chain([program.graph().output]).map(|value| program.alias(value)).collect();
        live.sort();
        live.dedup();
        live.retain(|value| before.iter().any(|step| step.op.output() == Some(*value)));
        live
    }
}

impl Session {
    /// The same model with weights of other precision; those whose precision stays are shared with this session.
    ///
    /// # Errors
    /// Those of the source, and when the device has no kernel for a format.
    pub fn with_plan(&self, source: &dyn WeightSource, plan: &PrecisionPlan) -> Result<Session> {
        let weight_formats = plan.weight_formats(&self.graph);
        let changed: Vec<WeightId> = (0..)
            .zip(self.weight_formats.iter().zip(weight_formats.iter()))
            .filter(|(_, (old, new))| old != new)
            .map(|(index, _)| WeightId(index))
            .collect();
        let model = self.model.reload(&self.graph, source, plan, &changed)?;
        Ok(Session {
            graph: self.graph.clone(),
            device: self.device.clone(),
            cache_format: model.cache_format(self.wanted_cache_format)?,
            wanted_cache_format: self.wanted_cache_format,
            model,
            weight_formats,
            context: self.context,
            available_bytes: self.available_bytes,
            prepared: Vec::new(),
            sweeps: None,
            inputs: StepInputs::default(),
            cache: None,
            marks: Vec::new(),
            spans: Vec::new(),
        })
    }

    /// Starts a forward pass that waits in front of its first step.
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn begin(&mut self, batch: &TokenBatch, options: ForwardOptions) -> Result<PausedRun> {
        self.prepare_forward(batch, options)?;
        let program = self.last_program().cloned();
        let program = program.ok_or_else(|| EngineError::Unsupported("nothing was prepared".to_owned()))?;
        Ok(PausedRun { program, inputs: self.inputs.clone(), next_step: 0, values: Vec::new() })
    }

    /// Runs a paused pass up to, but not including, `step`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the pass is further already or is of another model, or the device's own.
    pub fn advance(&mut self, paused: &mut PausedRun, step: usize) -> Result<()> {
        if step == paused.next_step {
            return Ok(());
        }
        self.run_paused(paused, paused.next_step..step)?;
        let live = paused.live(step);
        paused.values.clear();
        for value in live {
            paused.values.push((value, self.read(value)?.data.to_vec()));
        }
        paused.next_step = step;
        Ok(())
    }

    /// Runs what is left of a paused pass; the pass itself stays as it is.
    ///
    /// # Errors
    /// As [`Session::advance`].
    pub fn finish(&mut self, paused: &PausedRun) -> Result<Output<'_>> {
        self.run_paused(paused, paused.next_step..paused.program.steps().len())?;
        self.output()
    }

    fn run_paused(&mut self, paused: &PausedRun, steps: Range<usize>) -> Result<()> {
        if !Arc::ptr_eq(&self.graph, paused.program.graph()) {
            return Err(EngineError::Unsupported("the paused pass is another model's".to_owned()));
        }
        if steps.start > steps.end || steps.end > paused.program.steps().len() {
            let message = format!("a pass that waits at step {} cannot go to {}", steps.start, steps.end);
            return Err(EngineError::Unsupported(message));
        }
        self.prepare(paused.program.key())?;
        self.inputs.clone_from(&paused.inputs);
        let Some(Prepared { executable, .. }) = self.prepared.first_mut() else {
            return Err(EngineError::Unsupported("nothing was prepared".to_owned()));
        };
        for (value, data) in &paused.values {
            executable.write(*value, data)?;
        }
        executable.run(steps, &self.inputs, None)
    }
}
