//! Which steps may be done together with the one before them, on any device.
//!
//! A value that exists only between fused steps is never written. So steps are fused only when everything that reads
//! such a value is among them, and never when somebody may ask for it afterwards.

use std::ops::Range;

use crate::graph::Step;
use crate::op::{Op, Operand, ValueId};
use crate::program::Program;

/// What follows a linear that can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epilogue {
    /// The step that activates its result.
    pub(crate) activate: Option<usize>,
    /// The step that adds something to it then.
    pub(crate) add: Option<usize>,
    /// What is written in the end.
    pub(crate) y: ValueId,
    /// The step behind all of them.
    pub(crate) next: usize,
}

impl Program {
    /// The step, if it lies in a range.
    pub(crate) fn op_in(&self, range: &Range<usize>, index: usize) -> Option<&Op> {
        range.contains(&index).then(|| &self.steps()[index].op)
    }

    /// Whether `value` is read by `readers` alone, and by nobody after the run.
    pub(crate) fn is_private(&self, value: ValueId, readers: Range<usize>) -> bool {
        let graph = self.graph();
        let is_kept = self.key().keep_hidden_states && graph.hidden_states.contains(&value);
        let slot = self.slot(value);
        // An alias of the value is the value: a selection that keeps everything was left out of the program.
        let is_output = self.slot(graph.output) == slot && self.are_aliases(graph.output, value);
        let steps = self.steps().iter().enumerate();
        let read_elsewhere = steps
            .filter(|(index, _)| !readers.contains(index))
            .any(|(_, step)| step.op.inputs().iter().any(|input| self.are_aliases(input.value, value)));
        !is_kept && !is_output && !read_elsewhere
    }

    /// Whether two names stand for the same value.
    pub(crate) fn are_aliases(&self, a: ValueId, b: ValueId) -> bool {
        self.alias(a) == self.alias(b)
    }

    /// Whether an operand is all columns of a value.
    pub(crate) fn is_whole(&self, operand: &Operand, value: ValueId) -> bool {
        self.are_aliases(operand.value, value) && operand.offset == 0 && operand.cols == self.shape(value).1
    }

    /// The steps from `at` on that are linears of all of `value`.
    pub(crate) fn linears_of(&self, value: ValueId, at: usize) -> Range<usize> {
        let reads = |step: &&Step| matches!(&step.op, Op::Linear { x, .. } if self.is_whole(x, value));
        at..at + self.steps().iter().skip(at).take_while(reads).count()
    }

    /// What follows, from step `at` on, a linear that writes `y`: an activation of it, then a sum with it.
    pub(crate) fn epilogue(&self, range: &Range<usize>, at: usize, y: ValueId) -> Epilogue {
        let mut epilogue = Epilogue { activate: None, add: None, y, next: at };
        if let Some(Op::Activate { x, y: out, .. }) = self.op_in(range, at)
            && self.is_whole(x, y)
            && self.is_private(y, at..at + 1)
        {
            epilogue = Epilogue { activate: Some(at), y: *out, next: at + 1, ..epilogue };
        }
        let (y, at) = (epilogue.y, epilogue.next);
        if let Some(Op::Add { a, b, y: out }) = self.op_in(range, at)
            && (self.is_whole(a, y) != self.is_whole(b, y))
            && self.is_private(y, at..at + 1)
        {
            epilogue = Epilogue { add: Some(at), y: *out, next: at + 1, ..epilogue };
        }
        epilogue
    }
}
