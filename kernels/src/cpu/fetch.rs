//! What a thread fetches into its caches while it has nothing else to do.

use super::prefetch;

/// Bytes of each sequence that are fetched before the next one's turn comes.
const TURN_BYTES: usize = 256;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Sequences of memory that will be read side by side.
///
/// Addresses are hints: they need not be valid, and nothing is read that the program can see.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fetch {
    /// Address of the first sequence.
    first: usize,
    /// Bytes from one sequence to the next.
    stride: usize,
    sequences: usize,
    /// Bytes of each.
    size: usize,
    /// Where the next turn begins, in sequence `turn`.
    at: usize,
    turn: usize,
}

impl Fetch {
    /// So many sequences of `size` bytes, `stride` apart.
    pub(super) fn new(first: *const u8, stride: usize, sequences: usize, size: usize) -> Self {
        Self { first: first.addr(), stride, sequences, size, at: 0, turn: 0 }
    }

    /// Whether there is nothing left to fetch.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.size || self.sequences == 0
    }

    /// Fetches a few lines more; `false` when there are none left.
    #[inline]
    pub(super) fn go_on(&mut self) -> bool {
        if self.is_done() {
            return false;
        }
        let address = self.first.wrapping_add(self.turn * self.stride + self.at);
        for line in (0..TURN_BYTES.min(self.size - self.at)).step_by(LINE_BYTES) {
            prefetch::read_soon(std::ptr::without_provenance(address.wrapping_add(line)));
        }
        self.turn += 1;
        if self.turn == self.sequences {
            (self.turn, self.at) = (0, self.at + TURN_BYTES);
        }
        true
    }
}
