//! Weights as bytes.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not every processor has a kernel"))]

use crate::format::Codes;

/// Weights of a block whose products with a digit are summed in 32 bits: each is below `2^15`, also where weights are moved
/// up to be unsigned.
pub(super) const MAX_BLOCK: usize = 1 << 16;

/// How codes become bytes: `value = step * byte`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) bytes: GridBytes,
    pub(super) step: f32,
}

/// The bytes of a [`Grid`].
#[derive(Clone, Copy, Debug)]
pub(super) enum GridBytes {
    /// The codes themselves.
    Codes,
    /// Of 4-bit codes.
    Table([i8; 16]),
}

impl Grid {
    /// The grid of some codes, if there is one.
    pub(super) fn of(codes: Codes) -> Option<Self> {
        match codes {
            Codes::Int8 => Some(Self { bytes: GridBytes::Codes, step: 1.0 }),
            Codes::Table(values) => Self::of_table(values),
            _ => None,
        }
    }

    /// Values that are multiples of a half.
    fn of_table(values: &[f32; 16]) -> Option<Self> {
        const STEP: f32 = 0.5;
        let bytes = values.map(|value| value / STEP);
        bytes
            .iter()
            .all(|byte| byte.fract() == 0.0 && (-128.0..=127.0).contains(byte))
            .then(|| Self { bytes: GridBytes::Table(bytes.map(|byte| byte as i8)), step: STEP })
    }

    /// Consecutive codes of a unit that lie in one byte.
    pub(super) fn codes_per_byte(&self) -> usize {
        match self.bytes {
            GridBytes::Codes => 1,
            GridBytes::Table(_) => 2,
        }
    }
}
