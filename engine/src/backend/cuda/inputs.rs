//! What varies from run to run, in device memory.

use std::sync::Arc;

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::driver::{Context, DeviceBuffer, Event, PinnedBuffer, Plain, Stream};

use crate::backend::StepInputs;
use crate::error::{EngineError, Result};
use crate::program::ProgramKey;

/// One input: on the device, and what it was last set to.
pub(super) struct Input<T> {
    pub(super) device: DeviceBuffer<T>,
    staging: PinnedBuffer<T>,
    current: Vec<T>,
}

impl<T: Plain + PartialEq> Input<T> {
    fn new(context: &Arc<Context>, len: usize) -> std::result::Result<Self, KernelError> {
        let (device, staging) = (DeviceBuffer::zeros(context, len)?, PinnedBuffer::zeros(context, len)?);
        Ok(Input { device, staging, current: Vec::with_capacity(len) })
    }

    fn differs(&self, values: &[T]) -> bool {
        self.current != values
    }

    fn set(&mut self, stream: &Stream, what: &'static str, values: &[T]) -> Result<()> {
        if values.is_empty() || self.current == values {
            return Ok(());
        }
        if values.len() != self.device.len() {
            let (expected, got) = (self.device.len(), values.len());
            return Err(EngineError::BatchShape { what, expected, got });
        }
        self.current.clear();
        self.staging.as_mut_slice().copy_from_slice(values);
        stream.upload(&self.staging, &self.device, 0, values.len()).map_err(KernelError::from)?;
        self.current.extend_from_slice(values);
        Ok(())
    }
}

/// All inputs of one program.
pub(super) struct Inputs {
    pub(super) token_ids: Input<u32>,
    pub(super) positions: Input<u32>,
    pub(super) token_types: Input<u32>,
    pub(super) kv_start: Input<u32>,
    pub(super) first_rows: Input<u32>,
    pub(super) last_rows: Input<u32>,
    pub(super) mask: Input<u8>,
    /// Recorded behind the last upload, which reads the staging memory.
    uploaded: Event,
}

impl Inputs {
    pub(super) fn new(context: &Arc<Context>, key: ProgramKey) -> std::result::Result<Self, KernelError> {
        let (batch, rows) = (key.batch, key.batch * key.tokens);
        Ok(Inputs {
            token_ids: Input::new(context, rows)?,
            positions: Input::new(context, rows)?,
            token_types: Input::new(context, rows)?,
            kv_start: Input::new(context, batch)?,
            first_rows: Input::new(context, batch)?,
            last_rows: Input::new(context, batch)?,
            mask: Input::new(context, rows)?,
            uploaded: Event::new(context)?,
        })
    }

    /// Uploads what changed since the last run.
    pub(super) fn set(&mut self, stream: &Stream, inputs: &StepInputs) -> Result<()> {
        let StepInputs { token_ids, positions, token_types, mask, kv_start, first_rows, last_rows } = inputs;
        let changes = self.token_ids.differs(token_ids)
            || self.positions.differs(positions)
            || self.token_types.differs(token_types)
            || self.kv_start.differs(kv_start)
            || self.first_rows.differs(first_rows)
            || self.last_rows.differs(last_rows)
            || (!mask.is_empty() && self.mask.differs(mask));
        if !changes {
            return Ok(());
        }
        // The staging memory may still be on its way to the device.
        self.uploaded.synchronize().map_err(KernelError::from)?;
        self.token_ids.set(stream, "list of token ids", token_ids)?;
        self.positions.set(stream, "list of positions", positions)?;
        self.token_types.set(stream, "list of token types", token_types)?;
        self.kv_start.set(stream, "list of cache lengths", kv_start)?;
        self.first_rows.set(stream, "list of first rows", first_rows)?;
        self.last_rows.set(stream, "list of last rows", last_rows)?;
        self.mask.set(stream, "mask", mask)?;
        Ok(stream.record(&self.uploaded).map_err(KernelError::from)?)
    }
}
