//! Memory for activations.

use std::ops::{Deref, DerefMut};

use super::storage::Storage;
use crate::error::{KernelError, Result};

/// Floats, zero to begin with, that start at a cache line, on huge pages when there are many.
///
/// Vectors of 64 bytes that do not start at a cache line are read and written in two pieces.
pub struct Buffer {
    storage: Storage,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfMemory`].
    pub fn zeroed(len: usize) -> Result<Self> {
        let needed_bytes = len.saturating_mul(size_of::<f32>());
        let storage = Storage::try_zeroed(needed_bytes);
        let storage = storage.ok_or(KernelError::OutOfMemory { what: "activations", needed_bytes })?;
        Ok(Self { storage, len })
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self { storage: Storage::zeroed(0), len: 0 }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(self.storage.bytes())[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(self.storage.bytes_mut())[..self.len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}
