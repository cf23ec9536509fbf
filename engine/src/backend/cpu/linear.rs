//! Linears on the CPU: what they do besides multiplying, and who rounds their inputs.
//!
//! Inputs that products round are rounded once for all linears that read them, where possible by the step that makes
//! them. All of it happens within the range that is run, and the bits are those of the steps by themselves.

use std::ops::Range;

use joulewise_kernels::args::{MatMul, ProductOutput, RoundedMatMul, RowsMut};
use joulewise_kernels::cpu::InputKind;

use super::{CpuExecutable, not_a_linear, unwritten};
use crate::error::Result;
use crate::fusion::Epilogue;
use crate::op::{Op, Operand, ValueId};
use crate::program::Program;

/// What may be done together with a linear, if the range that is run has it.
pub(super) struct LinearPlan {
    /// The steps behind it that end its product.
    epilogue: Epilogue,
    /// The linears behind those that alone read the result, if so it is.
    readers: Option<Range<usize>>,
    /// The linear that comes next.
    pub(super) next: Option<usize>,
}

impl LinearPlan {
    /// Of step `index`; `None` when it is no linear.
    pub(super) fn new(program: &Program, index: usize) -> Option<Self> {
        let Op::Linear { y, .. } = program.steps()[index].op else { return None };
        let epilogue = program.epilogue(&(0..program.steps().len()), index + 1, y);
        let readers = program.linears_of(epilogue.y, epilogue.next);
        let is_private = !readers.is_empty() && program.is_private(epilogue.y, readers.clone());
        let is_linear = |index: &usize| matches!(program.steps()[*index].op, Op::Linear { .. });
        let next = (index + 1..program.steps().len()).find(is_linear);
        Some(Self { epilogue, readers: is_private.then_some(readers), next })
    }
}

impl CpuExecutable {
    /// Runs the linear at a step, and what is fused with it; returns the step behind them.
    pub(super) fn linear(&mut self, index: usize, end: usize) -> Result<usize> {
        let program = self.program.clone();
        let Op::Linear { x, y, .. } = program.steps()[index].op else {
            return Err(not_a_linear());
        };
        let joined = self.joined(index, end);
        if joined.len() > 1 {
            let next = joined.end;
            self.products(joined, end)?;
            return Ok(next);
        }
        let plan = self.linears[index].as_ref();
        let epilogue = self.epilogue(index, end);
        let (y, next) = epilogue.map_or((y, index + 1), |epilogue| (epilogue.y, epilogue.next));
        let later = self.next_linears(index, end);
        let readers = plan.and_then(|plan| plan.readers.clone());
        let readers = readers.filter(|readers| readers.start == next && readers.end <= end);
        let kind = self.input_kind(index, x.value);
        if let Some(kind) = kind {
            self.round(x.value, kind)?;
        }
        if let (Some(_), Some(wanted)) = (kind, readers.and_then(|readers| self.input_kind(readers.start, y)))
        {
            let mut out = std::mem::take(&mut self.other_rounded);
            let result =
                self.product(index, epilogue, true, &later, ProductOutput::Rounded(&mut out, wanted));
            self.other_rounded = std::mem::replace(&mut self.rounded, out);
            self.rounded_value = Some(program.alias(y));
            result?;
            return Ok(next);
        }
        let slot = program.slot(y).ok_or_else(|| unwritten(y))?;
        let mut out = std::mem::take(&mut self.slots[slot]);
        let (rows, cols) = program.shape(y);
        let target = ProductOutput::Rows(RowsMut { data: &mut out[..rows * cols], rows, cols });
        let result = self.product(index, epilogue, kind.is_some(), &later, target);
        self.slots[slot] = out;
        result?;
        Ok(next)
    }

    /// What the linear at a step ends with, if it is one and `end` is not before that.
    pub(super) fn epilogue(&self, index: usize, end: usize) -> Option<Epilogue> {
        let Op::Linear { x, .. } = self.program.steps()[index].op else { return None };
        let epilogue = self.linears[index].as_ref()?.epilogue;
        // The result must not lie where the inputs of the linear do: they are read while it is written.
        let is_apart = self.program.slot(epilogue.y) != self.program.slot(x.value);
        (epilogue.next <= end && is_apart).then_some(epilogue)
    }

    /// What the linear at a step rounds its inputs to, if it reads all of `value` and rounds it.
    pub(super) fn input_kind(&self, index: usize, value: ValueId) -> Option<InputKind> {
        let step = self.program.steps().get(index)?;
        let Op::Linear { x, weight, .. } = &step.op else { return None };
        let rounding = self.tables.roundings[step.module.0 as usize];
        let weight = self.tables.matrix(*weight).ok()?;
        let kind = self.tables.kernels.input_kind(weight, rounding, self.program.shape(value).0)?;
        self.program.is_whole(x, value).then_some(kind)
    }

    /// Makes `rounded` hold all of a value, unless it does.
    fn round(&mut self, value: ValueId, kind: InputKind) -> Result<()> {
        let alias = self.program.alias(value);
        let holds = self.rounded.holds().is_some_and(|(held, ..)| held == kind);
        if holds && self.rounded_value == Some(alias) {
            return Ok(());
        }
        let mut rounded = std::mem::take(&mut self.rounded);
        let cols = self.program.shape(value).1;
        let rows = self.rows(&Operand { value, offset: 0, cols });
        let result = rows.and_then(|rows| Ok(self.tables.kernels.round(rows, kind, &mut rounded)?));
        (self.rounded, self.rounded_value) = (rounded, Some(alias));
        result
    }

    /// The product of the linear at a step, of `rounded` inputs if they are, ended as an epilogue says; the
    /// linears that come next find some of their weights in the caches.
    fn product(
        &self,
        index: usize,
        epilogue: Option<Epilogue>,
        is_rounded: bool,
        next: &Range<usize>,
        y: ProductOutput<'_>,
    ) -> Result<()> {
        let (tables, steps) = (&*self.tables, self.program.steps());
        let Op::Linear { x, weight, bias, y: product } = &steps[index].op else {
            return Err(not_a_linear());
        };
        let activated =
            epilogue.and_then(|epilogue| epilogue.activate).and_then(|index| match &steps[index].op {
                Op::Activate { kind, y, .. } => Some((*kind, *y)),
                _ => None,
            });
        let summand = activated.map_or(*product, |(_, y)| y);
        let residual = epilogue.and_then(|epilogue| epilogue.add).and_then(|index| match &steps[index].op {
            Op::Add { a, b, .. } => Some(if self.program.is_whole(a, summand) { b } else { a }),
            _ => None,
        });
        let w = tables.matrix(*weight)?;
        let bias = bias.map(|bias| tables.vector(bias)).transpose()?;
        let activation = activated.map(|(kind, _)| kind);
        let residual = residual.map(|residual| self.rows(residual)).transpose()?;
        let next_weights = self.weights(next)?;
        let next = &next_weights[..next.len()];
        match y {
            ProductOutput::Rows(y) if !is_rounded => {
                let rounding = tables.roundings[steps[index].module.0 as usize];
                let x = self.rows(x)?;
                tables.kernels.matmul(MatMul { x, rounding, w, bias, activation, residual, next, y })?;
            }
            y => {
                let (x, next) = (&self.rounded, next.first().copied());
                tables.kernels.matmul_rounded(RoundedMatMul { x, w, bias, activation, residual, next, y })?;
            }
        }
        Ok(())
    }
}
