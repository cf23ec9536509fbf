//! The bytes of files, and stretches of them that tensors keep.

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{ModelError, Result};

/// The bytes of one file.
pub(crate) enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    #[expect(unsafe_code, reason = "a memory map is the one thing here that safe Rust cannot express")]
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is private to this process and read-only. Rust's remaining condition, that no other process
        // changes the file meanwhile, cannot be enforced; every reader of a mapped checkpoint rests on it. The bytes
        // are only ever read as plain numbers, for which every bit pattern is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Bytes::Mapped(map))
    }
}

/// A stretch of a file, known to lie within it.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    file: Arc<Bytes>,
    range: Range<usize>,
}

impl Slice {
    /// `None` when the stretch leaves the file.
    pub(crate) fn new(file: &Arc<Bytes>, range: Range<usize>) -> Option<Self> {
        file.get(range.clone())?;
        Some(Slice { file: file.clone(), range })
    }
}

/// Bytes of a tensor that are read before they are let go of.
#[cfg(unix)]
const RELEASED_TOGETHER: usize = 1 << 20;

/// What lies around them and may have come along: the system maps neighbouring pages of the file together.
#[cfg(unix)]
const RELEASED_AROUND: usize = 4 << 20;

impl Slice {
    /// Lets go of the memory behind a stretch that has been read, about a mebibyte at a time: who reads a tensor from its
    /// beginning to its end never holds much of it. What is asked for again comes from the file.
    pub(crate) fn release(&self, read: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &*self.file {
            let is_within = read.start / RELEASED_TOGETHER == read.end / RELEASED_TOGETHER;
            if is_within && read.end < self.range.len() {
                return;
            }
            let first = (self.range.start + read.start).saturating_sub(RELEASED_TOGETHER + RELEASED_AROUND);
            let end = map.len().min(self.range.start + read.end + RELEASED_AROUND);
            #[expect(
                unsafe_code,
                reason = "advice that could lose what was written to memory; nothing is, here"
            )]
            // SAFETY: the pages are those of a read-only map of a file, which brings them back when they are touched.
            // The stretch lies within the map. Refused advice changes nothing.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
        }
        #[cfg(not(unix))]
        let _ = read;
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}
