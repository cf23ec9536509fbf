//! Drawing tokens from logits. The kernel is in `sampling.cu`, the rule in [`sampling`](mod@crate::sampling).

use super::driver::{DeviceBuffer, Launch};
use super::{CudaKernels, DeviceRows, check};
use crate::error::Result;
use crate::sampling::COLUMNS;

impl CudaKernels {
    /// Draws a token from each row of `logits`, into `tokens [rows]`; `draws [rows, 3]` are the words of a
    /// [`Draw`](crate::sampling::Draw) for each. What [`sample`](crate::sampling::sample) draws from the same numbers.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape), also for more than 2^20 tokens to choose from.
    pub fn sample(
        &self,
        logits: DeviceRows<'_>,
        draws: &DeviceBuffer<u64>,
        tokens: &DeviceBuffer<u32>,
    ) -> Result<()> {
        check::rows("sample", "logits", &logits)?;
        check::at_most("sample", "columns of logits", COLUMNS * COLUMNS, logits.cols)?;
        check::at_least("sample", "draws", 3 * logits.rows, draws.len())?;
        check::at_least("sample", "tokens", logits.rows, tokens.len())?;
        let launch = Launch::new(&self.stream, self.function("sampling.cu", "sample")?)
            .rows(&logits)
            .int(logits.cols)
            .buffer(draws, 0)
            .buffer(tokens, 0);
        // SAFETY: one block per row, which reads the row and three words and writes one token, checked above; a block has a
        // thread for each column, and a column no more tokens than that.
        Ok(unsafe { launch.submit([logits.rows, 1, 1], COLUMNS, 0, true) }?)
    }
}
