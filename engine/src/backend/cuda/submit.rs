//! Steps, fused where they can be, as launches.

use std::ops::Range;

use joulewise_kernels::args::InputRounding;
use joulewise_kernels::cuda::{
    AttentionArgs, CacheWriteArgs, DecodeArgs, DeviceRows, EmbedArgs, FusedNorm, KeyValues, LinearArgs,
    LinearPart, MeanPoolArgs, NormArgs, NormRounding, RopeArgs, RotateArgs,
};

use super::CudaCache;
use super::memory::Memory;
use super::plan::{NormInFront, Planner, Work};
use crate::error::{EngineError, Result};
use crate::op::{IndexInput, Op, RowChoice, ValueId};

impl Memory {
    /// Submits steps launch by launch, to the device or into a graph.
    pub(super) fn submit(
        &self,
        steps: Range<usize>,
        cache: Option<&CudaCache>,
        has_mask: bool,
    ) -> Result<()> {
        let kernels = &self.tables.kernels;
        for (_, work) in self.planned(steps, cache, has_mask) {
            match work {
                Work::Single(step) => self.step(step, cache, has_mask)?,
                Work::Product { norm, linears, gate, activate, add } => {
                    self.product(norm, linears, gate, activate, add)?;
                }
                Work::Rotate { ropes, write } => {
                    let cache = cache.ok_or_else(|| self.misplanned(write))?;
                    kernels.rotate_and_write(&self.rotation(ropes, write, cache)?)?;
                }
                Work::Decode { ropes, write, attention } => self.decode(ropes, write, attention, cache)?,
            }
        }
        Ok(())
    }

    /// What is launched for steps, and which of them each launch does.
    pub(super) fn planned(
        &self,
        steps: Range<usize>,
        cache: Option<&CudaCache>,
        has_mask: bool,
    ) -> Vec<(Range<usize>, Work)> {
        let kernels = &self.tables.kernels;
        let can_join = |step: usize, has_norm: bool| match self.op(step) {
            Op::Linear { x, weight, .. } => {
                let rows = self.program.shape(x.value).0;
                self.tables.matrix(*weight).is_ok_and(|matrix| kernels.can_join(matrix, rows, has_norm))
            }
            _ => false,
        };
        let are_alike = |a: usize, b: usize| match (self.op(a), self.op(b)) {
            (Op::Linear { weight, .. }, Op::Linear { weight: other, .. }) => {
                self.program.weight_format(*weight) == self.program.weight_format(*other)
                    && self.rounding(a) == self.rounding(b)
            }
            _ => false,
        };
        let rounds_behind_norm = |step: usize| match self.op(step) {
            Op::Linear { x, weight, .. } => {
                let (rows, rounding) = (self.program.shape(x.value).0, self.rounding(step));
                self.tables
                    .matrix(*weight)
                    .is_ok_and(|matrix| kernels.rounds_behind_norm(matrix, rows, rounding))
            }
            _ => false,
        };
        let can_rotate = |ropes: (usize, usize), write: usize| {
            cache.is_some_and(|cache| {
                self.rotation(ropes, write, cache).is_ok_and(|args| kernels.can_rotate_and_write(&args))
            })
        };
        let planner = Planner {
            program: &self.program,
            can_join: &can_join,
            rounds_behind_norm: &rounds_behind_norm,
            are_alike: &are_alike,
            can_rotate: &can_rotate,
            share_memory: &|a, b| self.places[a.index()] == self.places[b.index()],
            has_cache: cache.is_some() && !has_mask,
        };
        planner.plan(steps)
    }

    fn rounding(&self, step: usize) -> InputRounding {
        self.tables.roundings[self.program.steps()[step].module.0 as usize]
    }

    fn op(&self, step: usize) -> &Op {
        &self.program.steps()[step].op
    }

    /// What is added to a linear's result, and where the sum goes.
    fn sum(&self, add: usize, linear_y: ValueId) -> Result<(DeviceRows<'_>, ValueId)> {
        let Op::Add { a, b, y } = self.op(add) else { return Err(self.misplanned(add)) };
        let other = if self.program.alias(a.value) == self.program.alias(linear_y) { b } else { a };
        Ok((self.rows(other)?, *y))
    }

    fn misplanned(&self, step: usize) -> EngineError {
        EngineError::Unsupported(format!("step {step} cannot be fused as planned"))
    }

    fn product(
        &self,
        norm: Option<NormInFront>,
        linears: Range<usize>,
        gate: Option<usize>,
        activate: Option<usize>,
        add: Option<usize>,
    ) -> Result<()> {
        let (first, mut parts) = (linears.start, Vec::with_capacity(3));
        let mut last = None;
        for step in linears {
            let Op::Linear { x, weight, bias, y } = self.op(step) else { return Err(self.misplanned(step)) };
            last = Some((*x, *y));
            let bias = self.tables.optional_vector(*bias)?;
            parts.push(LinearPart { w: self.tables.matrix(*weight)?, bias, y: self.whole(*y)? });
        }
        let Some((x, mut y)) = last else { return Err(self.misplanned(first)) };
        let mut input = self.rows(&x)?;
        let (mut fused_norm, mut is_rounded) = (None, false);
        match norm {
            Some(NormInFront::Within(step)) => {
                let NormArgs { kind, x, weight, bias, eps, .. } = self.norm(step)?;
                (input, fused_norm) = (x, Some(FusedNorm { kind, weight, bias, eps }));
            }
            Some(NormInFront::AsCodes { norm, is_y_read }) => {
                let rounding = self.rounding(first);
                let rounded = NormRounding { rounding, w: parts[0].w, scratch: &self.linear, is_y_read };
                self.tables.kernels.norm_and_round(&self.norm(norm)?, &rounded)?;
                is_rounded = true;
            }
            None => {}
        }
        let (mut gate_kind, mut activation, mut residual) = (None, None, None);
        if let Some(Op::Gate { kind, y: out, .. }) = gate.map(|step| self.op(step)) {
            gate_kind = Some(*kind);
            parts[0].y = self.whole(*out)?;
        }
        if let Some(Op::Activate { kind, y: out, .. }) = activate.map(|step| self.op(step)) {
            (activation, y) = (Some(*kind), *out);
            parts[0].y = self.whole(y)?;
        }
        if let Some(add) = add {
            let (rows, out) = self.sum(add, y)?;
            residual = Some(rows);
            parts[0].y = self.whole(out)?;
        }
        Ok(self.tables.kernels.linear(&LinearArgs {
            x: input,
            norm: fused_norm,
            rounding: self.rounding(first),
            is_rounded,
            parts: &parts,
            gate: gate_kind,
            activation,
            residual,
            scratch: &self.linear,
        })?)
    }

    fn norm(&self, step: usize) -> Result<NormArgs<'_>> {
        let Op::Norm { kind, x, weight, bias, eps, y } = self.op(step) else {
            return Err(self.misplanned(step));
        };
        Ok(NormArgs {
            kind: *kind,
            x: self.rows(x)?,
            weight: self.tables.vector(*weight)?,
            bias: self.tables.optional_vector(*bias)?,
            eps: *eps,
            y: self.whole(*y)?,
        })
    }

    fn rotation<'a>(
        &'a self,
        ropes: (usize, usize),
        write: usize,
        cache: &'a CudaCache,
    ) -> Result<RotateArgs<'a>> {
        let (Op::Rope { x: q, table, y, .. }, Op::Rope { x: k, .. }, Op::CacheWrite { layer, v, .. }) =
            (self.op(ropes.0), self.op(ropes.1), self.op(write))
        else {
            return Err(self.misplanned(write));
        };
        Ok(RotateArgs {
            q: self.rows(q)?,
            k: self.rows(k)?,
            v: self.rows(v)?,
            table: &self.tables.ropes[table.0 as usize],
            positions: &self.inputs.positions.device,
            tokens: self.program.key().tokens,
            kv_start: &self.inputs.kv_start.device,
            cache: cache.layer(*layer),
            y: self.whole(*y)?,
        })
    }

    fn decode(
        &self,
        ropes: Option<(usize, usize)>,
        write: Option<usize>,
        attention: usize,
        cache: Option<&CudaCache>,
    ) -> Result<()> {
        let (Op::Attention { q, layer: Some(layer), spec, y, .. }, Some(cache), Some(scratch)) =
            (self.op(attention), cache, &self.decode)
        else {
            return Err(self.misplanned(attention));
        };
        let mut q = *q;
        let mut new = match write.map(|step| self.op(step)) {
            Some(Op::CacheWrite { k, v, .. }) => Some((*k, *v)),
            _ => None,
        };
        let mut rope = None;
        if let Some((rope_q, rope_k)) = ropes {
            let (Op::Rope { x, table, .. }, Op::Rope { x: k, .. }) = (self.op(rope_q), self.op(rope_k))
            else {
                return Err(self.misplanned(rope_q));
            };
            q = *x;
            new = new.map(|(_, v)| (*k, v));
            rope = Some((&self.tables.ropes[table.0 as usize], &self.inputs.positions.device));
        }
        let new = new.map(|(k, v)| Ok::<_, EngineError>((self.rows(&k)?, self.rows(&v)?))).transpose()?;
        Ok(self.tables.kernels.attention_decode(&DecodeArgs {
            q: self.rows(&q)?,
            new,
            rope,
            cache: cache.layer(*layer),
            heads: spec.heads,
            kv_start: &self.inputs.kv_start.device,
            scale: spec.scale,
            window: spec.window,
            slopes: self.slopes.get(&attention),
            scratch,
            y: self.whole(*y)?,
        })?)
    }

    fn step(&self, step: usize, cache: Option<&CudaCache>, has_mask: bool) -> Result<()> {
        let Memory { tables, program, inputs, .. } = self;
        let kernels = &tables.kernels;
        let key = program.key();
        let mask = has_mask.then_some(&inputs.mask.device);
        match self.op(step) {
            Op::Embed { table, index, y } => {
                let ids = match index {
                    IndexInput::TokenIds => &inputs.token_ids.device,
                    IndexInput::Positions => &inputs.positions.device,
                    IndexInput::TokenTypes => &inputs.token_types.device,
                };
                kernels.embed(&EmbedArgs { table: tables.table(*table)?, ids, y: self.whole(*y)? })?;
            }
            Op::Linear { .. } => self.product(None, step..step + 1, None, None, None)?,
            Op::Norm { .. } => kernels.norm(&self.norm(step)?)?,
            Op::Activate { kind, x, y } => kernels.activate(*kind, self.rows(x)?, self.whole(*y)?)?,
            Op::Gate { kind, gate, up, y } => {
                kernels.gate(*kind, self.rows(gate)?, self.rows(up)?, self.whole(*y)?)?;
            }
            Op::Add { a, b, y } => kernels.add(self.rows(a)?, self.rows(b)?, self.whole(*y)?)?,
            Op::Rope { x, head_dim, table, y } => kernels.rope(&RopeArgs {
                x: self.rows(x)?,
                head_dim: *head_dim,
                table: &tables.ropes[table.0 as usize],
                positions: &inputs.positions.device,
                y: self.whole(*y)?,
            })?,
            Op::CacheWrite { layer, k, v } => {
                let Some(cache) = cache else {
                    return Err(EngineError::Unsupported("this program needs a cache".to_owned()));
                };
                kernels.cache_write(&CacheWriteArgs {
                    k: self.rows(k)?,
                    v: self.rows(v)?,
                    tokens: key.tokens,
                    kv_start: &inputs.kv_start.device,
                    cache: cache.layer(*layer),
                })?;
            }
            Op::Attention { q, k, v, layer, spec, y } => {
                let kv = match (layer, cache) {
                    (Some(layer), Some(cache)) => KeyValues::Cached(cache.layer(*layer)),
                    _ => KeyValues::Projected { k: self.rows(k)?, v: self.rows(v)? },
                };
                kernels.attention(&AttentionArgs {
                    q: self.rows(q)?,
                    kv,
                    tokens: key.tokens,
                    heads: spec.heads,
                    kv_heads: spec.kv_heads,
                    head_dim: spec.head_dim,
                    kv_start: &inputs.kv_start.device,
                    scale: spec.scale,
                    causal: spec.causal,
                    window: spec.window,
                    slopes: self.slopes.get(&step),
                    mask,
                    y: self.whole(*y)?,
                })?;
            }
            Op::SelectRows { x, which, y } => {
                let indices = match which {
                    RowChoice::First => &inputs.first_rows.device,
                    RowChoice::Logits => &inputs.last_rows.device,
                };
                kernels.select_rows(self.rows(x)?, indices, self.whole(*y)?)?;
            }
            Op::MeanPool { x, y } => {
                let (x, y) = (self.rows(x)?, self.whole(*y)?);
                kernels.mean_pool(&MeanPoolArgs { x, tokens: key.tokens, mask, y })?;
            }
        }
        Ok(())
    }
}
