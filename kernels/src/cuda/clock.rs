//! The clock that the multiprocessors run at, by their own count. The kernel is in `clock.cu`.

use super::CudaKernels;
use super::check;
use super::driver::{DeviceBuffer, Launch};
use crate::error::Result;

impl CudaKernels {
    /// Reads what the first multiprocessor has counted, behind all that was submitted: cycles and nanoseconds, into
    /// `reading [2]`. Two readings tell the mean clock between them, as finely as that timer moves on.
    ///
    /// # Errors
    /// [`KernelError::Shape`](crate::KernelError::Shape).
    pub fn read_clock(&self, reading: &DeviceBuffer<u64>) -> Result<()> {
        /// As many threads as fill a multiprocessor by two blocks: each gets one.
        const THREADS: usize = 1024;
        check::at_least("read_clock", "reading", 2, reading.len())?;
        let launch = Launch::new(&self.stream, self.function("clock.cu", "read_clock")?).buffer(reading, 0);
        let blocks = 2 * self.context().multiprocessors();
        // SAFETY: two words are written, checked above. Two blocks on the first multiprocessor may both write them, moments
        // apart; either reading, or one word of each, is a reading of then.
        Ok(unsafe { launch.submit([blocks, 1, 1], THREADS, 0, true) }?)
    }
}
