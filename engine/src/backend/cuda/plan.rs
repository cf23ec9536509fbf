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
        norm: Option<NormInFront>,
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

/// How a product comes by the norm of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormInFront {
    /// It normalises by itself: one row.
    Within(usize),
    /// A launch in front leaves the codes that it multiplies, and the normed value only where somebody else reads it.
    AsCodes { norm: usize, is_y_read: bool },
}

/// Most steps of one [`Work`] behind its first.
pub(super) const MOST_STEPS: usize = 6;

/// Decides what is fused within `range`.
pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    /// Whether a product like this linear's takes several matrices, or a gate, and a norm in front.
    pub(super) can_join: &'a dyn Fn(usize, bool) -> bool,
    /// Whether the norm in front of a product like this linear's had better leave codes for it.
    pub(super) rounds_behind_norm: &'a dyn Fn(usize) -> bool,
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
        let is_within = norm.is_some() && (self.can_join)(first, true);
        let (x, joins) = (*x, is_within || (self.can_join)(first, false));
        let mut last = first + 1;
        while joins
            && last < first + 3
            && matches!(self.op(&range, last), Some(Op::Linear { x: other, .. }) if *other == x)
            && (self.are_alike)(first, last)
        {
            last += 1;
        }
        let (norm, still_read) = match norm {
            None => (None, Some(x.value)),
            Some((_, _, normed)) if !self.program.is_whole(&x, normed) => return None,
            Some((norm, source, normed)) => {
                let is_y_read = !self.program.is_private(normed, first..last);
                if is_within && !is_y_read {
                    (Some(NormInFront::Within(norm)), Some(source))
                } else if (self.rounds_behind_norm)(first) {
                    // Codes lie where no value does, and the launch that leaves them has read its input to the end before
                    // the product writes anything.
                    (Some(NormInFront::AsCodes { norm, is_y_read }), None)
                } else {
                    return None;
                }
            }
        };
        let outputs: Vec<ValueId> =
            (first..last).filter_map(|index| self.program.steps()[index].op.output()).collect();
        // Blocks that are still reading must not meet results of others.
        let is_apart = |written: &[ValueId]| {
            !still_read.is_some_and(|source| written.iter().any(|y| (self.share_memory)(*y, source)))
        };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use joulewise_kernels::format::Format;

    use super::*;
    use crate::program::ProgramKey;
    use crate::{
        ActivationKind, Attention, AttentionSpec, IndexInput, Linear, ModelBuilder, ModuleKind, Norm,
        OutputKind, PositionRule,
    };

    const WIDTH: usize = 16;

    /// Two layers; norms in front of attention and multilayer perceptron, or behind them.
    fn program(is_post_norm: bool) -> Program {
        let mut b = ModelBuilder::new(50, 64, PositionRule::Sequential);
        let (mut x, _) = b.embedding("embed", IndexInput::TokenIds, 50, WIDTH).unwrap();
        for layer in 0..2 {
            let block = b.block(&format!("layers.{layer}"), layer, |b| {
                let normed = if is_post_norm { x } else { b.norm("norm", x, Norm::layer(1e-6))? };
                let projection = Linear::new(ModuleKind::QkvProjection, WIDTH);
                let [q, k, v] = ["q", "k", "v"].map(|name| b.linear(name, normed, projection));
                let spec = AttentionSpec {
                    heads: 2,
                    kv_heads: 2,
                    head_dim: WIDTH / 2,
                    scale: 0.3,
                    causal: false,
                    window: None,
                    alibi_slopes: None,
                };
                let attended = b.attention(q?, k?, v?, Attention { spec, rope: None, cache_layer: None })?;
                let out = b.linear("out", attended, Linear::new(ModuleKind::OutputProjection, WIDTH))?;
                let sum = b.add("attended", out, x)?;
                let normed = b.norm("norm2", sum, Norm::layer(1e-6))?;
                let up = b.linear("up", normed, Linear::new(ModuleKind::MlpUp, 4 * WIDTH))?;
                let up = b.activation("act", ModuleKind::MlpActivation, ActivationKind::GeluErf, up)?;
                let down = b.linear("down", up, Linear::new(ModuleKind::MlpDown, WIDTH))?;
                let sum = b.add("sum", down, if is_post_norm { normed } else { sum })?;
                if is_post_norm { b.norm("norm", sum, Norm::layer(1e-6)) } else { Ok(sum) }
            });
            x = block.unwrap();
        }
        let pooled = b.mean_pool("pool", x).unwrap();
        let graph = Arc::new(b.finish(OutputKind::Embedding, pooled).unwrap());
        let formats = vec![Format::Int8; graph.weights.len()].into();
        let key = ProgramKey {
            phase: Phase::Forward,
            batch: 1,
            tokens: 8,
            all_logits: false,
            keep_hidden_states: false,
        };
        Program::lower(graph, key, formats, Format::F32).unwrap()
    }

    /// What a device does that takes codes, and joins products without a norm.
    fn planned(
        program: &Program,
        range: Range<usize>,
        rounds_behind_norm: bool,
        are_alike: bool,
    ) -> Vec<Work> {
        let arena = program.arena_with_room(MOST_STEPS);
        let planner = Planner {
            program,
            can_join: &|_, has_norm| !has_norm,
            rounds_behind_norm: &|_| rounds_behind_norm,
            are_alike: &|_, _| are_alike,
            share_memory: &|a, b| arena.slots[a.index()] == arena.slots[b.index()],
            can_rotate: &|_, _| false,
            has_cache: false,
        };
        planner.plan(range).into_iter().map(|(_, work)| work).collect()
    }

    /// The norms in front of products, with how many linears each has and whether an activation follows.
    fn norms(work: &[Work]) -> Vec<(NormInFront, usize, bool)> {
        work.iter()
            .filter_map(|work| match work {
                Work::Product { norm: Some(norm), linears, activate, .. } => {
                    Some((*norm, linears.len(), activate.is_some()))
                }
                _ => None,
            })
            .collect()
    }

    fn steps_of_norms(program: &Program) -> Vec<usize> {
        let is_norm = |step: &usize| matches!(program.steps()[*step].op, Op::Norm { .. });
        (0..program.steps().len()).filter(is_norm).collect()
    }

    #[test]
    fn norms_leave_codes_for_products_of_several_rows() {
        for is_post_norm in [false, true] {
            let program = program(is_post_norm);
            let all = 0..program.steps().len();
            let steps = steps_of_norms(&program);
            // Norms behind a sum are read by the next sum, too, and the last one by no product at all.
            let expected: Vec<_> = if is_post_norm {
                [(steps[0], 1, true), (steps[1], 3, false), (steps[2], 1, true)].to_vec()
            } else {
                [(steps[0], 3, false), (steps[1], 1, true), (steps[2], 3, false), (steps[3], 1, true)]
                    .to_vec()
            }
            .into_iter()
            .map(|(norm, linears, is_activated)| {
                (NormInFront::AsCodes { norm, is_y_read: is_post_norm }, linears, is_activated)
            })
            .collect();
            assert_eq!(norms(&planned(&program, all.clone(), true, true)), expected);
            assert!(norms(&planned(&program, all, false, true)).is_empty());
            // A range that ends with the norm.
            let alone = planned(&program, steps[0]..steps[0] + 1, true, true);
            assert_eq!(alone, [Work::Single(steps[0])]);
        }
    }

    /// Codes serve the products of one launch, all others read the normed value.
    #[test]
    fn products_that_are_not_joined_read_what_the_norm_writes() {
        let program = program(false);
        let norm = steps_of_norms(&program)[0];
        let product = |norm, first| Work::Product {
            norm,
            linears: first..first + 1,
            gate: None,
            activate: None,
            add: None,
        };
        let expected = [
            product(Some(NormInFront::AsCodes { norm, is_y_read: true }), norm + 1),
            product(None, norm + 2),
            product(None, norm + 3),
        ];
        assert_eq!(planned(&program, norm..norm + 4, true, false), expected);
    }
}
