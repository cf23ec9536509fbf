//! Which neighbouring steps one launch can do.
//!
//! A value that exists only between fused steps is never written. So steps are fused only when everything that reads
//! such a value is among them, and never when somebody may ask for it afterwards.

use std::ops::Range;

use crate::op::{Op, Operand, ValueId};
use crate::program::{Phase, Program};

/// Steps that are launched together; indices into the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One step by itself.
    Single(usize),
    /// A linear with what follows it: an activation, a sum.
    Linear { linear: usize, activate: Option<usize>, add: Option<usize> },
    /// Products of one row with up to three matrices behind one norm.
    Vector {
        norm: Option<usize>,
        linears: Range<usize>,
        gate: Option<usize>,
        activate: Option<usize>,
        add: Option<usize>,
    },
    /// Rotation of queries and keys, cache write and attention of one token per sequence.
    Decode { ropes: Option<(usize, usize)>, write: Option<usize>, attention: usize },
}

/// Decides what is fused within `range`. `can_stream(linear)` says whether a linear's matrix suits [`Work::Vector`];
/// `share_memory` whether two values may lie in the same place.
pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    pub(super) can_stream: &'a dyn Fn(&Op) -> bool,
    pub(super) share_memory: &'a dyn Fn(ValueId, ValueId) -> bool,
    pub(super) has_cache: bool,
}

impl Planner<'_> {
    pub(super) fn plan(&self, range: Range<usize>) -> Vec<Work> {
        let mut work = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (next, launch) = self
                .decode(at..range.end)
                .or_else(|| self.vector(at..range.end))
                .or_else(|| self.linear(at..range.end))
                .unwrap_or((at + 1, Work::Single(at)));
            work.push(launch);
            at = next;
        }
        work
    }

    fn op(&self, range: &Range<usize>, index: usize) -> Option<&Op> {
        range.contains(&index).then(|| &self.program.steps()[index].op)
    }

    /// Whether `value` is read by `readers` alone, and by nobody after the run.
    fn is_private(&self, value: ValueId, readers: Range<usize>) -> bool {
        let graph = self.program.graph();
        let is_kept = self.program.key().keep_hidden_states && graph.hidden_states.contains(&value);
        let slot = self.program.slot(value);
        // An alias of the value is the value: a selection that keeps everything was left out of the program.
        let is_output = self.program.slot(graph.output) == slot && self.aliases(graph.output, value);
        let steps = self.program.steps().iter().enumerate();
        let read_elsewhere = steps
            .filter(|(index, _)| !readers.contains(index))
            .any(|(_, step)| step.op.inputs().iter().any(|input| self.aliases(input.value, value)));
        !is_kept && !is_output && !read_elsewhere
    }

    /// Whether two names stand for the same value in this program.
    fn aliases(&self, a: ValueId, b: ValueId) -> bool {
        self.program.alias(a) == self.program.alias(b)
    }

    fn is_whole(&self, operand: &Operand, value: ValueId) -> bool {
        self.aliases(operand.value, value)
            && operand.offset == 0
            && operand.cols == self.program.shape(value).1
    }

    /// What follows a linear that writes `y`: an activation of it, then a sum with it.
    fn epilogue(
        &self,
        range: &Range<usize>,
        mut at: usize,
        y: ValueId,
    ) -> (usize, ValueId, Option<usize>, Option<usize>) {
        let (mut y, mut activated, mut added) = (y, None, None);
        if let Some(Op::Activate { x, y: out, .. }) = self.op(range, at)
            && self.is_whole(x, y)
            && self.is_private(y, at..at + 1)
        {
            (y, activated) = (*out, Some(at));
            at += 1;
        }
        if let Some(Op::Add { a, b, y: out }) = self.op(range, at)
            && (self.is_whole(a, y) != self.is_whole(b, y))
            && self.is_private(y, at..at + 1)
        {
            (y, added) = (*out, Some(at));
            at += 1;
        }
        (at, y, activated, added)
    }

    fn linear(&self, range: Range<usize>) -> Option<(usize, Work)> {
        let linear = range.start;
        let Some(Op::Linear { x, y, .. }) = self.op(&range, linear) else { return None };
        let (next, out, activate, add) = self.epilogue(&range, linear + 1, *y);
        // Blocks that are still reading `x` must not meet results of others.
        if next == linear + 1 || (self.share_memory)(out, x.value) {
            return None;
        }
        Some((next, Work::Linear { linear, activate, add }))
    }

    fn vector(&self, range: Range<usize>) -> Option<(usize, Work)> {
        let mut first = range.start;
        let mut norm = None;
        if let Some(Op::Norm { y, .. }) = self.op(&range, first) {
            norm = Some((first, *y));
            first += 1;
        }
        let Some(Op::Linear { x, y, .. }) = self.op(&range, first) else { return None };
        if self.program.shape(*y).0 != 1 {
            return None;
        }
        let x = *x;
        let mut last = first;
        while last < range.end && last < first + 3 {
            match self.op(&range, last) {
                Some(op @ Op::Linear { x: other, weight, .. }) if *other == x && (self.can_stream)(op) => {
                    let Some(Op::Linear { weight: first_weight, .. }) = self.op(&range, first) else { break };
                    if self.program.weight_format(*weight) != self.program.weight_format(*first_weight) {
                        break;
                    }
                    last += 1;
                }
                _ => break,
            }
        }
        if last == first {
            return None;
        }
        let source = match norm {
            Some((index, normed)) => {
                if !self.is_whole(&x, normed) || !self.is_private(normed, first..last) {
                    return None;
                }
                let Some(Op::Norm { x, .. }) = self.op(&range, index) else { return None };
                x.value
            }
            None => x.value,
        };
        let outputs: Vec<ValueId> =
            (first..last).filter_map(|index| self.program.steps()[index].op.output()).collect();
        let (mut next, mut gate, mut activate, mut add) = (last, None, None, None);
        let mut written = outputs.clone();
        if let (&[gated, upped], Some(Op::Gate { gate: g, up, y, .. })) =
            (outputs.as_slice(), self.op(&range, last))
            && self.is_whole(g, gated)
            && self.is_whole(up, upped)
            && self.is_private(gated, last..last + 1)
            && self.is_private(upped, last..last + 1)
        {
            (gate, next, written) = (Some(last), last + 1, vec![*y]);
        } else if let &[y] = outputs.as_slice() {
            let out;
            (next, out, activate, add) = self.epilogue(&range, last, y);
            written = vec![out];
        }
        if written.iter().any(|y| (self.share_memory)(*y, source)) {
            return None;
        }
        let norm = norm.map(|(index, _)| index);
        Some((next, Work::Vector { norm, linears: first..last, gate, activate, add }))
    }

    fn decode(&self, range: Range<usize>) -> Option<(usize, Work)> {
        if self.program.key().phase != Phase::Decode || !self.has_cache {
            return None;
        }
        let mut at = range.start;
        let mut ropes = None;
        if let (Some(Op::Rope { y: q, table, .. }), Some(Op::Rope { y: k, table: other, .. })) =
            (self.op(&range, at), self.op(&range, at + 1))
        {
            if table != other || !self.is_private(*q, at + 2..at + 4) || !self.is_private(*k, at + 2..at + 4)
            {
                return None;
            }
            ropes = Some(((at, at + 1), *q, *k));
            at += 2;
        }
        let write = matches!(self.op(&range, at), Some(Op::CacheWrite { .. })).then_some(at);
        if let Some(write) = write {
            at = write + 1;
        }
        let Some(Op::Attention { q, k, layer: Some(layer), y, .. }) = self.op(&range, at) else {
            return None;
        };
        if let Some((_, rotated_q, rotated_k)) = &ropes
            && (write.is_none() || !self.is_whole(q, *rotated_q) || !self.is_whole(k, *rotated_k))
        {
            return None;
        }
        let mut sources = vec![q.value];
        if let Some(Op::CacheWrite { layer: written, k, v }) = write.and_then(|write| self.op(&range, write))
        {
            if written != layer {
                return None;
            }
            sources.extend([k.value, v.value]);
        }
        if let Some(((q, k), ..)) = ropes {
            sources.extend(
                [q, k].iter().flat_map(|rope| self.program.steps()[*rope].op.inputs()).map(|x| x.value),
            );
        }
        if sources.iter().any(|source| (self.share_memory)(*y, *source)) {
            return None;
        }
        Some((at + 1, Work::Decode { ropes: ropes.map(|(steps, ..)| steps), write, attention: at }))
    }
}
