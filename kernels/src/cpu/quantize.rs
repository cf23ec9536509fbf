//! Rounding a row of inputs to integers or to fp8; see [`InputRounding`].
//!
//! Written in plain Rust over lanes, which compilers turn into the vectors of whatever instruction set it is inlined
//! into; the results are those of [`reference::round_inputs`](crate::reference::round_inputs), bit by bit.

use crate::args::InputRounding;
use crate::cpu::op_table::{PIECE_BYTES, RoundRow, RoundedRow};
use crate::format::{fp8_e4m3, scale_of};

/// The largest code.
const MAX: f32 = 127.0;

const LANES: usize = 16;
const INFINITY_BITS: u32 = 0x7f80_0000;

#[inline(always)]
pub(super) fn quantize(row: RoundRow<'_>) -> RoundedRow {
    quantize_with(row, largest, round)
}

/// The same with other ways to find the largest finite magnitude and whether there is a NaN, and to round a piece and sum
/// its codes.
#[inline(always)]
pub(super) fn quantize_with(
    row: RoundRow<'_>,
    largest: impl Fn(&[f32]) -> (f32, bool),
    round: impl Fn(&[f32; PIECE_BYTES], f32, &mut [i8; PIECE_BYTES]) -> i32,
) -> RoundedRow {
    let RoundRow { x, rounding, codes, piece_stride } = row;
    let (amax, has_nan) = largest(x);
    let scale = match rounding {
        InputRounding::Static { scale } => scale,
        _ => scale_of(amax, MAX),
    };
    let inverse = 1.0 / scale;
    let mut sum = 0;
    for (x, codes) in x.chunks(PIECE_BYTES).zip(codes.chunks_mut(piece_stride)) {
        let Some(codes) = codes.first_chunk_mut::<PIECE_BYTES>() else { break };
        sum += match x.first_chunk::<PIECE_BYTES>() {
            Some(x) => round(x, inverse, codes),
            None => {
                let mut padded = [0.0; PIECE_BYTES];
                padded[..x.len()].copy_from_slice(x);
                round(&padded, inverse, codes)
            }
        };
    }
    // A NaN among the inputs makes every result of the row NaN.
    RoundedRow { scale: if has_nan { f32::NAN } else { scale }, sum }
}

/// The largest finite magnitude, and whether there is a NaN.
#[inline(always)]
fn largest(x: &[f32]) -> (f32, bool) {
    // The bits of magnitudes are ordered as the magnitudes are.
    let (mut finite, mut all) = ([0u32; LANES], [0u32; LANES]);
    let (pieces, tail) = x.as_chunks::<LANES>();
    let mut padded = [0.0; LANES];
    padded[..tail.len()].copy_from_slice(tail);
    for piece in pieces.iter().chain([&padded]) {
        for lane in 0..LANES {
            let bits = piece[lane].to_bits() & 0x7fff_ffff;
            all[lane] = all[lane].max(bits);
            finite[lane] = finite[lane].max(if bits < INFINITY_BITS { bits } else { 0 });
        }
    }
    let largest = |lanes: [u32; LANES]| lanes.into_iter().fold(0, u32::max);
    (f32::from_bits(largest(finite)), largest(all) > INFINITY_BITS)
}

#[inline(always)]
fn round(x: &[f32; PIECE_BYTES], inverse: f32, codes: &mut [i8; PIECE_BYTES]) -> i32 {
    // Adding 1.5 * 2^23 leaves no room for a fraction, and the integer in the low bits.
    const NO_FRACTION: f32 = 12_582_912.0;
    for i in 0..PIECE_BYTES {
        let steps = x[i] * inverse;
        let steps = if steps < MAX { steps } else { MAX };
        let steps = if steps > -MAX { steps } else { -MAX };
        codes[i] = (steps + NO_FRACTION).to_bits() as i8;
    }
    codes.iter().map(|code| i32::from(*code)).sum()
}

/// Rounds `x` to multiples of a scale by the values of E4M3; `y` is as long.
pub(super) fn round_to_e4m3(x: &[f32], rounding: InputRounding, y: &mut [f32]) {
    let scale = match rounding {
        InputRounding::None => return y.copy_from_slice(x),
        InputRounding::PerToken => scale_of(largest(x).0, fp8_e4m3::MAX),
        InputRounding::Static { scale } => scale,
    };
    let inverse = 1.0 / scale;
    for (y, x) in y.iter_mut().zip(x) {
        *y = scale * nearest_e4m3(x * inverse);
    }
}

/// What decoding the nearest code gives, without a branch.
#[inline(always)]
fn nearest_e4m3(value: f32) -> f32 {
    const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
    // Floats of this size are the multiples of 2^-9, which the values below the smallest normal are.
    const NINE_PLACES: f32 = 1.5 * 16384.0;
    const DROPPED_BITS: u32 = 20;
    let magnitude = value.abs();
    let magnitude = if magnitude > fp8_e4m3::MAX { fp8_e4m3::MAX } else { magnitude };
    let bits = magnitude.to_bits();
    let half = (1 << (DROPPED_BITS - 1)) - 1 + ((bits >> DROPPED_BITS) & 1);
    let normal = f32::from_bits(bits.wrapping_add(half) & !((1 << DROPPED_BITS) - 1));
    let small = (magnitude + NINE_PLACES) - NINE_PLACES;
    let rounded = if magnitude < SMALLEST_NORMAL { small } else { normal };
    let rounded = if value.is_nan() { value } else { rounded };
    rounded.copysign(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_without_a_branch_is_e4m3() {
        // Every upper half of a float, the halfway cases below it and their neighbours.
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let (ours, truth) = (nearest_e4m3(value), fp8_e4m3::decode(fp8_e4m3::encode(value)));
                let are_equal = ours.to_bits() == truth.to_bits() || ours.is_nan() && truth.is_nan();
                assert!(are_equal, "{value:e}: {ours} instead of {truth}");
            }
        }
    }
}
