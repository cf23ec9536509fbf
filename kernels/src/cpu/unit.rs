//! How the codes of a row are cut for a panel.
//!
//! A *unit* is the codes of a few consecutive `k` of one row, as many as fill what the multiplying instructions take at
//! once: 32 bits hold four integers of 8 bits (dot-product and tile instructions), two bf16 (the same), or eight
//! 4-bit codes. A panel is the codes of its rows, transposed unit by unit.

use crate::format::Codes;

/// Largest number of terms in a unit; inputs are padded with zeros to a multiple of it.
pub(super) const MAX_TERMS: usize = 8;

impl Codes {
    /// Consecutive `k` in a unit.
    pub(super) const fn terms(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::E4m3 | Self::E5m2 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
            Self::Table(_) => 8,
        }
    }

    /// Bytes of a unit.
    pub(super) const fn unit_size(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 => 1,
            Self::F16 => 2,
            Self::F32 | Self::Bf16 | Self::Int8 | Self::Table(_) => 4,
        }
    }

    /// Rows are padded with zeros to a multiple of so many units: what tile instructions take at once.
    pub(super) const fn unit_group(self) -> usize {
        match self {
            Self::Bf16 | Self::Int8 => 16,
            _ => 1,
        }
    }
}
