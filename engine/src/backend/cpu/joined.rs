//! Linears of the same input whose weights threads share out as those of one.
//!
//! A product of few rows begins with nothing fetched, splits its inputs on one thread and waits for its last task. Queries,
//! keys and values, or gate and up, do so once instead of three times or twice; the bits are those of each by itself.

use std::ops::Range;

use joulewise_kernels::args::{MatMul, RowsMut};
use joulewise_kernels::cpu::{Buffer, PackedMatrix};

use super::{CpuExecutable, not_a_linear, unwritten};
use crate::error::Result;
use crate::op::Op;

/// Queries, keys and values.
const MOST_JOINED: usize = 3;

impl CpuExecutable {
    /// The linears from a step on that are better done as one, one at least if the step is one.
    pub(super) fn joined(&self, index: usize, end: usize) -> Range<usize> {
        let steps = &self.program.steps()[..end];
        let Some(Op::Linear { x, weight, .. }) = steps.get(index).map(|step| &step.op) else {
            return index..index;
        };
        let tables = &*self.tables;
        let rounding = |index: usize| tables.roundings[steps[index].module.0 as usize];
        let ends_itself =
            |index: usize| self.epilogue(index, end).is_none_or(|ending| ending.next == index + 1);
        let joins = |other: &usize| {
            let Op::Linear { x: same, weight: other_weight, .. } = &steps[*other].op else { return false };
            let (Ok(w), Ok(other_w)) = (tables.matrix(*weight), tables.matrix(*other_weight)) else {
                return false;
            };
            let (rows, _) = self.program.shape(x.value);
            same == x
                && rounding(index) == rounding(*other)
                && ends_itself(*other)
                && tables.kernels.can_join([w, other_w], rounding(index), rows)
        };
        let most = steps.len().min(index + MOST_JOINED);
        let count = (index..most).take_while(joins).count();
        index..index + count.max(1)
    }

    /// The linears that come behind one first, if the range that is run has them; done as one if they are several.
    pub(super) fn next_linears(&self, index: usize, end: usize) -> Range<usize> {
        let next = self.linears[index].as_ref().and_then(|plan| plan.next).filter(|next| *next < end);
        next.map_or(index..index, |next| self.joined(next, end))
    }

    /// Runs linears of the same input as one.
    pub(super) fn products(&mut self, linears: Range<usize>, end: usize) -> Result<()> {
        let program = self.program.clone();
        let (mut slots, mut outs) = ([0; MOST_JOINED], <[Buffer; MOST_JOINED]>::default());
        let (slots, outs) = (&mut slots[..linears.len()], &mut outs[..linears.len()]);
        for (slot, step) in slots.iter_mut().zip(&program.steps()[linears.clone()]) {
            let y = step.op.output().ok_or_else(not_a_linear)?;
            *slot = program.slot(y).ok_or_else(|| unwritten(y))?;
        }
        for (slot, out) in slots.iter().zip(outs.iter_mut()) {
            *out = std::mem::take(&mut self.slots[*slot]);
        }
        let result = self.multiply_joined(linears.start, outs, self.next_linears(linears.end - 1, end));
        for (slot, out) in slots.iter().zip(outs) {
            self.slots[*slot] = std::mem::take(out);
        }
        result
    }

    /// Multiplies the input of the linears from a step on by the weights of all.
    fn multiply_joined(&self, first: usize, outs: &mut [Buffer], next: Range<usize>) -> Result<()> {
        let kernels = &self.tables.kernels;
        let weights = self.weights(&next)?;
        let next = &weights[..next.len()];
        match outs {
            [a, b] => {
                let products = [self.plain_product(first, a, next)?, self.plain_product(first + 1, b, next)?];
                kernels.matmul_joined(products)?;
            }
            [a, b, c] => {
                let [second, third] = [first + 1, first + 2];
                let first = self.plain_product(first, a, next)?;
                let products =
                    [first, self.plain_product(second, b, next)?, self.plain_product(third, c, next)?];
                kernels.matmul_joined(products)?;
            }
            _ => return Err(not_a_linear()),
        }
        Ok(())
    }

    /// The product of the linear at a step by itself.
    fn plain_product<'a>(
        &'a self,
        index: usize,
        out: &'a mut [f32],
        next: &'a [&'a PackedMatrix],
    ) -> Result<MatMul<'a>> {
        let (tables, step) = (&*self.tables, &self.program.steps()[index]);
        let Op::Linear { x, weight, bias, y } = &step.op else { return Err(not_a_linear()) };
        let (rows, cols) = self.program.shape(*y);
        Ok(MatMul {
            x: self.rows(x)?,
            rounding: tables.roundings[step.module.0 as usize],
            w: tables.matrix(*weight)?,
            bias: bias.map(|bias| tables.vector(bias)).transpose()?,
            activation: None,
            residual: None,
            next,
            y: RowsMut { data: &mut out[..rows * cols], rows, cols },
        })
    }

    /// The weights of a linear and of those behind it.
    pub(super) fn weights(&self, linears: &Range<usize>) -> Result<[&PackedMatrix; MOST_JOINED]> {
        let weight = |index: usize| match &self.program.steps()[index].op {
            Op::Linear { weight, .. } => self.tables.matrix(*weight),
            _ => Err(not_a_linear()),
        };
        let mut weights = [weight(linears.start)?; MOST_JOINED];
        for (place, index) in weights.iter_mut().zip(linears.clone()) {
            *place = weight(index)?;
        }
        Ok(weights)
    }
}
