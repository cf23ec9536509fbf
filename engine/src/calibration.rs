//! The ranges of activations, for 8-bit activations whose scales are known beforehand.

use std::collections::BTreeMap;

use joulewise_kernels::format::{Format, fp8_e4m3};

use crate::error::Result;
use crate::observer::{Granularity, Observer, ValueReader};
use crate::op::Op;
use crate::program::{Cut, Program};

/// The largest integer code of 8-bit activations.
const INT8_MAX: f32 = 127.0;

/// The largest magnitude that flowed into each linear module while it was watched.
///
/// An [`Observer`]: run a reference model over text that is like the text to come, with this watching.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Largest magnitude by module path.
    pub ranges: BTreeMap<String, f32>,
}

impl Calibration {
    /// The scale of the inputs of a module whose weights have this format, `None` when the module was never watched.
    pub fn scale(&self, module: &str, weight: Format) -> Option<f32> {
        let max = match weight {
            Format::Fp8E4m3 | Format::Fp8E5m2 => fp8_e4m3::MAX,
            _ => INT8_MAX,
        };
        // A module that only ever saw zeros rounds them to zero under any scale.
        self.ranges.get(module).map(|range| (range / max).max(f32::MIN_POSITIVE))
    }
}

impl Observer for Calibration {
    fn granularity(&self) -> Granularity {
        Granularity::Module
    }

    fn exit(&mut self, program: &Program, cut: &Cut, values: &mut dyn ValueReader) -> Result<()> {
        for step in &program.steps()[cut.steps.clone()] {
            let Op::Linear { x, .. } = &step.op else { continue };
            let (_, stride) = program.shape(x.value);
            let rows = values.read(x.value)?.chunks_exact(stride);
            let inputs = rows.flat_map(|row| &row[x.offset..x.offset + x.cols]);
            let largest =
                inputs.map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f32::max);
            let path = &program.graph().modules.get(step.module).path;
            match self.ranges.get_mut(path) {
                Some(range) => *range = range.max(largest),
                None => drop(self.ranges.insert(path.clone(), largest)),
            }
        }
        Ok(())
    }
}
