//! Which neighbouring steps one launch can do.
//!
//! What may be fused at all, [`Program`] knows.

use std::ops::Range;

use crate::op::{Op, ValueId};
use crate::program::{Phase, Program};

/// Steps that are launched together; indices into the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One step by itself.
    Single(usize),
    /// Products of one input with up to three matrices, the norm in front, and what follows.
    Product {
        norm: Option<usize>,
        linears: Range<usize>,
        gate: Option<usize>,
        activate: Option<usize>,
        add: Option<usize>,
    },
    /// Rotation of a prompt's queries and keys, and the cache write.
    Rotate { ropes: (usize, usize), write: usize },
    /// Rotation of queries and keys, cache write and attention of one token per sequence.
    Decode { ropes: Option<(usize, usize)>, write: Option<usize>, attention: usize },
}

/// Most steps of one [`Work`] behind its first.
pub(super) const MOST_STEPS: usize = 6;

/// Decides what is fused within `range`.
pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    /// Whether a product like this linear's takes several matrices, or a gate, and a norm in front.
    pub(super) can_join: &'a dyn Fn(usize, bool) -> bool,
    /// Whether two linears have weights of one format and round their input alike.
    pub(super) are_alike: &'a dyn Fn(usize, usize) -> bool,
    /// Whether two values may lie in the same place.
    pub(super) share_memory: &'a dyn Fn(ValueId, ValueId) -> bool,
    /// Whether queries, keys and values of a prompt can be rotated and written at once.
    pub(super) can_rotate: &'a dyn Fn((usize, usize), usize) -> bool,
    pub(super) has_cache: bool,
}

impl Planner<'_> {
    /// Each launch with the steps that it does.
    pub(super) fn plan(&self, range: Range<usize>) -> Vec<(Range<usize>, Work)> {
        let mut work = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (next, launch) = self
                .decode(at..range.end)
                .or_else(|| self.rotate(at..range.end))
                .or_else(|| self.product(at..range.end))
                .unwrap_or((at + 1, Work::Single(at)));
            work.push((at..next, launch));
            at = next;
        }
        work
    }

    fn op(&self, range: &Range<usize>, index: usize) -> Option<&Op> {
        self.program.op_in(range, index)
    }

    fn product(&self, range: Range<usize>) -> Option<(usize, Work)> {
        let mut first = range.start;
        let mut norm = None;
        if let Some(Op::Norm { x, y, .. }) = self.op(&range, first) {
            norm = Some((first, x.value, *y));
            first += 1;
        }
        let Some(Op::Linear { x, .. }) = self.op(&range, first) else { return None };
        let (x, joins) = (*x, (self.can_join)(first, norm.is_some()));
        let mut last = first + 1;
        while joins
            && last < first + 3
            && matches!(self.op(&range, last), Some(Op::Linear { x: other, .. }) if *other == x)
            && (self.are_alike)(first, last)
        {
            last += 1;
        }
        let source = match norm {
            Some((_, source, normed)) => {
                if !joins
                    || !self.program.is_whole(&x, normed)
                    || !self.program.is_private(normed, first..last)
                {
                    return None;
                }
                source
            }
            None => x.value,
        };
        let outputs: Vec<ValueId> =
            (first..last).filter_map(|index| self.program.steps()[index].op.output()).collect();
        // Blocks that are still reading `x` must not meet results of others.
        let is_apart = |written: &[ValueId]| !written.iter().any(|y| (self.share_memory)(*y, source));
        let (mut next, mut gate, mut activate, mut add) = (last, None, None, None);
        if let (&[gated, upped], Some(Op::Gate { gate: g, up, y, .. })) =
            (outputs.as_slice(), self.op(&range, last))
            && self.program.is_whole(g, gated)
            && self.program.is_whole(up, upped)
            && self.program.is_private(gated, last..last + 1)
            && self.program.is_private(upped, last..last + 1)
            && is_apart(&[*y])
        {
            (gate, next) = (Some(last), last + 1);
        } else if let &[y] = outputs.as_slice() {
            let fused = self.program.epilogue(&range, last, y);
            if is_apart(&[fused.y]) {
                (next, activate, add) = (fused.next, fused.activate, fused.add);
            }
        }
        if norm.is_some() && gate.is_none() && next == last && !is_apart(&outputs) {
            return None;
        }
        let norm = norm.map(|(index, ..)| index);
        Some((next, Work::Product { norm, linears: first..last, gate, activate, add }))
    }

    fn rotate(&self, range: Range<usize>) -> Option<(usize, Work)> {
        let at = range.start;
        let (
            Some(Op::Rope { y: q, table, .. }),
            Some(Op::Rope { y: rotated, table: other, .. }),
            Some(Op::CacheWrite { layer, k, v }),
            Some(Op::Attention { layer: read, .. }),
        ) = (self.op(&range, at), self.op(&range, at + 1), self.op(&range, at + 2), self.op(&range, at + 3))
        else {
            return None;
        };
        let sources = [at, at + 1].map(|rope| self.program.steps()[rope].op.inputs()[0].value);
        let is_apart = ![sources[0], sources[1], v.value].iter().any(|x| (self.share_memory)(*q, *x));
        // Attention reads keys from the cache: nobody else has to see them.
        (self.has_cache
            && table == other
            && *read == Some(*layer)
            && self.program.is_whole(k, *rotated)
            && self.program.is_private(*rotated, at + 2..at + 4)
            && is_apart
            && (self.can_rotate)((at, at + 1), at + 2))
        .then_some((at + 3, Work::Rotate { ropes: (at, at + 1), write: at + 2 }))
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
            if table != other
                || !self.program.is_private(*q, at + 2..at + 4)
                || !self.program.is_private(*k, at + 2..at + 4)
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
            && (write.is_none()
                || !self.program.is_whole(q, *rotated_q)
                || !self.program.is_whole(k, *rotated_k))
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
