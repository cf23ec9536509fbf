//! In which float format each value is kept.
//!
//! Under a strategy of 16 bits every value has 16 bits but for two kinds: what the model returns, and sums that go on
//! being added to from layer to layer. Rounding those would add up, and in some models they outgrow f16.

use joulewise_kernels::format::Format;

use crate::op::{Op, ValueId};
use crate::program::Program;

/// The format of each value of the graph.
pub(super) fn value_formats(program: &Program, narrow: Format) -> Vec<Format> {
    let graph = program.graph();
    let mut formats = vec![narrow; graph.values.len()];
    if narrow == Format::F32 {
        return formats;
    }
    let alias = |value: ValueId| program.alias(value).index();
    let mut is_sum = vec![false; formats.len()];
    for step in &graph.steps {
        if let (Op::Add { .. } | Op::Embed { .. }, Some(y)) = (&step.op, step.op.output()) {
            is_sum[alias(y)] = true;
        }
    }
    // Backwards: a sum that something new is added to, or that goes into one that is.
    for step in graph.steps.iter().rev() {
        let Op::Add { a, b, y } = &step.op else { continue };
        for (summand, other) in [(a, b), (b, a)] {
            let (summand, other) = (alias(summand.value), alias(other.value));
            if is_sum[summand] && (!is_sum[other] || formats[alias(*y)] == Format::F32) {
                formats[summand] = Format::F32;
            }
        }
    }
    // Forwards: the last sum, and rows taken out of it.
    for step in &graph.steps {
        let is_wide = |value: ValueId| formats[alias(value)] == Format::F32;
        let wide_y = match &step.op {
            Op::Add { a, b, y } if is_wide(a.value) || is_wide(b.value) => Some(*y),
            Op::SelectRows { x, y, .. } | Op::MeanPool { x, y } if is_wide(x.value) => Some(*y),
            _ => None,
        };
        if let Some(y) = wide_y {
            formats[alias(y)] = Format::F32;
        }
    }
    formats[alias(graph.output)] = Format::F32;
    for value in 0..formats.len() {
        formats[value] = formats[alias(ValueId(value as u32))];
    }
    formats
}
