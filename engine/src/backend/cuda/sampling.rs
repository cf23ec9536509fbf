//! Tokens drawn where the logits are: a few words go to the device and a token per row comes back, instead of all logits.

use std::sync::Arc;

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::driver::{Context, DeviceBuffer, PinnedBuffer};
use joulewise_kernels::cuda::{CudaKernels, DeviceRows};
use joulewise_kernels::sampling::Draw;

use crate::error::{EngineError, Result};

/// Words that describe a draw.
const WORDS: usize = 3;

/// What drawing needs besides logits, for as many rows as a program returns.
pub(super) struct DrawBuffers {
    draws: DeviceBuffer<u64>,
    staging: PinnedBuffer<u64>,
    tokens: DeviceBuffer<u32>,
    read_back: PinnedBuffer<u32>,
}

impl DrawBuffers {
    pub(super) fn new(context: &Arc<Context>, rows: usize) -> std::result::Result<Self, KernelError> {
        Ok(DrawBuffers {
            draws: DeviceBuffer::zeros(context, WORDS * rows)?,
            staging: PinnedBuffer::zeros(context, WORDS * rows)?,
            tokens: DeviceBuffer::zeros(context, rows)?,
            read_back: PinnedBuffer::zeros(context, rows)?,
        })
    }

    /// A token from each row of logits.
    pub(super) fn sample(
        &mut self,
        kernels: &CudaKernels,
        logits: DeviceRows<'_>,
        draws: &[Draw],
    ) -> Result<Vec<u32>> {
        let rows = self.tokens.len();
        if draws.len() != logits.rows || draws.len() > rows {
            let (expected, got) = (logits.rows.min(rows), draws.len());
            return Err(EngineError::BatchShape { what: "list of draws", expected, got });
        }
        for (words, draw) in self.staging.as_mut_slice().chunks_mut(WORDS).zip(draws) {
            words.copy_from_slice(&draw.words());
        }
        let stream = kernels.stream();
        // The tokens are waited for below, so the staging memory is free again.
        stream.upload(&self.staging, &self.draws, 0, WORDS * draws.len()).map_err(KernelError::from)?;
        kernels.sample(logits, &self.draws, &self.tokens)?;
        stream.download(&self.tokens, &mut self.read_back, draws.len()).map_err(KernelError::from)?;
        Ok(self.read_back.as_slice()[..draws.len()].to_vec())
    }
}
