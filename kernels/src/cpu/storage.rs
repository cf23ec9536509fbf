//! Memory for weights: aligned for the widest vector loads, on huge pages where it is large.
//!
//! A decode step reads every weight once, and on 4 KiB pages part of that time goes into finding the pages. Most Linux
//! distributions give huge pages only to memory that is advised to have them.

use memmap2::MmapMut;

/// From this size on memory is mapped by itself; a huge page is as large.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// From this size on memory that is written bit by bit is mapped by itself.
const PAGE_BYTES: usize = 4096;

/// A cache line; makes small storage aligned.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes that start at a cache line.
pub(super) struct Storage(Memory);

enum Memory {
    /// On the heap.
    Lines(Vec<Line>),
    /// Mapped, the first so many bytes of it.
    Map(MmapMut, usize),
}

impl Storage {
    /// At least `size` bytes, all zero.
    pub(super) fn zeroed(size: usize) -> Self {
        // A heap that has no room ends the process, as it does for every vector.
        Self::try_zeroed(size)
            .unwrap_or_else(|| Self(Memory::Lines(bytemuck::allocation::zeroed_vec(lines(size)))))
    }

    /// The same, or `None` where the system has no room.
    pub(super) fn try_zeroed(size: usize) -> Option<Self> {
        if size >= HUGE_PAGE_BYTES
            && let Ok(map) = MmapMut::map_anon(size)
        {
            // Advice may be refused; the memory is as good without.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Some(Self(Memory::Map(map, size)));
        }
        Self::on_heap(size)
    }

    /// The same where parts may never be written: they take no memory until they are.
    pub(super) fn try_sparse(size: usize) -> Option<Self> {
        if size >= PAGE_BYTES
            && let Ok(map) = MmapMut::map_anon(size)
        {
            return Some(Self(Memory::Map(map, size)));
        }
        Self::on_heap(size)
    }

    fn on_heap(size: usize) -> Option<Self> {
        Some(Self(Memory::Lines(bytemuck::allocation::try_zeroed_vec(lines(size)).ok()?)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Lines(lines) => bytemuck::cast_slice(lines),
            Memory::Map(map, size) => &map[..*size],
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Lines(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Map(map, size) => &mut map[..*size],
        }
    }
}

/// Lines that hold so many bytes.
fn lines(size: usize) -> usize {
    size.div_ceil(size_of::<Line>())
}

impl Clone for Storage {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.bytes().len());
        copy.bytes_mut()[..self.bytes().len()].copy_from_slice(self.bytes());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_storage_is_zero_and_aligned() {
        for size in [0, 1, 64, 100, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 77] {
            for storage in [Storage::zeroed(size), Storage::try_sparse(size).unwrap()] {
                let bytes = storage.bytes();
                assert!(bytes.len() >= size && bytes.iter().all(|byte| *byte == 0));
                assert_eq!(bytes.as_ptr().align_offset(64), 0, "{size}");
            }
        }
    }

    #[test]
    fn more_than_an_address_space_is_not_to_be_had() {
        for size in [1 << 62, isize::MAX as usize, usize::MAX] {
            assert!(Storage::try_zeroed(size).is_none() && Storage::try_sparse(size).is_none(), "{size}");
        }
    }
}
