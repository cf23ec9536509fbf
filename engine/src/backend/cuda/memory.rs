//! Where a program's values lie on the device, and what its launches need besides.

use std::collections::HashMap;
use std::sync::Arc;

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::driver::DeviceBuffer;
use joulewise_kernels::cuda::{DecodeScratch, DeviceRows, LinearScratch, ScratchSize};
use joulewise_kernels::format::Format;

use super::Tables;
use super::formats::value_formats;
use super::inputs::Inputs;
use super::plan::MOST_STEPS;
use crate::error::{EngineError, Result};
use crate::op::{Op, Operand, ValueId};
use crate::program::{Phase, Program};

/// Everything a launch needs to know; unchanged while graphs are captured.
pub(super) struct Memory {
    pub(super) tables: Arc<Tables>,
    pub(super) program: Arc<Program>,
    /// One buffer per slot of the arena.
    pub(super) buffers: Vec<DeviceBuffer<u8>>,
    /// Buffer of each value.
    pub(super) places: Vec<Option<usize>>,
    /// What its elements are.
    pub(super) formats: Vec<Format>,
    pub(super) inputs: Inputs,
    pub(super) linear: LinearScratch,
    pub(super) decode: Option<DecodeScratch>,
    /// ALiBi slopes of each step.
    pub(super) slopes: HashMap<usize, DeviceBuffer<f32>>,
}

impl Memory {
    pub(super) fn new(tables: Arc<Tables>, program: Arc<Program>) -> Result<Self> {
        let context = tables.kernels.context().clone();
        let values = program.graph().values.len() as u32;
        let formats = value_formats(&program, tables.cache_format);
        let arena = if program.has_fixed_places() {
            program.arena().clone()
        } else {
            program.arena_with_room(MOST_STEPS)
        };
        let places: Vec<_> = (0..values)
            .map(|value| arena.slots[program.alias(ValueId(value)).index()].map(|slot| slot as usize))
            .collect();
        // The widest of the values that take turns in a slot.
        let mut sizes = vec![0; arena.sizes.len()];
        for value in 0..values {
            if let Some(slot) = places[value as usize] {
                let (rows, cols) = program.shape(ValueId(value));
                let size = rows * cols * element_bytes(formats[value as usize]);
                sizes[slot] = size.max(sizes[slot]);
            }
        }
        let zeros = |size: &usize| DeviceBuffer::zeros(&context, *size);
        let buffers = sizes.iter().map(zeros).collect::<std::result::Result<Vec<_>, _>>();
        let (mut scratch, mut heads, mut slopes) = (ScratchSize::default(), 0, HashMap::new());
        for (index, step) in program.steps().iter().enumerate() {
            match &step.op {
                Op::Linear { x, weight, .. } => {
                    let (w, rounding) = (tables.matrix(*weight)?, tables.roundings[step.module.0 as usize]);
                    let (rows, format) = (program.shape(x.value).0, formats[x.value.index()]);
                    scratch = scratch.max(tables.kernels.scratch_size(w, rows, format, rounding));
                }
                Op::Attention { spec, .. } => {
                    heads = heads.max(spec.heads * spec.head_dim);
                    if let Some(values) = &spec.alibi_slopes {
                        let values = DeviceBuffer::from_slice(&context, values).map_err(KernelError::from)?;
                        slopes.insert(index, values);
                    }
                }
                _ => {}
            }
        }
        let (key, cache) = (program.key(), program.graph().cache);
        let decode = match cache.filter(|_| key.phase == Phase::Decode) {
            Some(cache) => {
                let heads = heads / cache.head_dim.max(1);
                Some(DecodeScratch::new(&context, key.batch, heads, cache.head_dim, tables.positions)?)
            }
            None => None,
        };
        Ok(Memory {
            inputs: Inputs::new(&context, key)?,
            buffers: buffers.map_err(KernelError::from)?,
            places,
            formats,
            linear: LinearScratch::new(&context, scratch)?,
            decode,
            slopes,
            program,
            tables,
        })
    }

    pub(super) fn buffer(&self, value: ValueId) -> Result<&DeviceBuffer<u8>> {
        let place = self.places[value.index()].ok_or_else(|| {
            EngineError::Unsupported(format!("value {} is not computed by this program", value.0))
        })?;
        Ok(&self.buffers[place])
    }

    /// The columns an operand names.
    pub(super) fn rows(&self, operand: &Operand) -> Result<DeviceRows<'_>> {
        let (rows, stride) = self.program.shape(operand.value);
        let data = self.buffer(operand.value)?;
        let format = self.formats[operand.value.index()];
        Ok(DeviceRows { data, format, offset: operand.offset, rows, cols: operand.cols, stride })
    }

    /// All of a value.
    pub(super) fn whole(&self, value: ValueId) -> Result<DeviceRows<'_>> {
        let (rows, cols) = self.program.shape(value);
        let (data, format) = (self.buffer(value)?, self.formats[value.index()]);
        Ok(DeviceRows { data, format, offset: 0, rows, cols, stride: cols })
    }
}

/// Bytes of an element of an activation.
pub(super) fn element_bytes(format: Format) -> usize {
    format.spec().code_bytes(1)
}
