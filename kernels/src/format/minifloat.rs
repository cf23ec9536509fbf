//! Rounding to floats of a few bits, nearest even, saturating.

/// The code of a finite or infinite magnitude, without the sign: `mantissa_bits` bits below an exponent of the given
/// bias. Magnitudes beyond `max`, the largest finite value, become `max`.
pub(super) fn encode_magnitude(magnitude: f32, mantissa_bits: u32, bias: i32, max: f32) -> u8 {
    let magnitude = magnitude.min(max);
    let smallest_normal = f32::from_bits(((127 + 1 - bias) as u32) << 23);
    if magnitude < smallest_normal {
        // The codes below the smallest normal are its multiples; the largest of them rounds up into it.
        let steps = (1u32 << mantissa_bits) as f32 / smallest_normal;
        return (magnitude * steps).round_ties_even() as u8;
    }
    let dropped = 23 - mantissa_bits;
    let bits = magnitude.to_bits();
    let rounded = bits + ((1 << (dropped - 1)) - 1) + ((bits >> dropped) & 1);
    ((rounded >> dropped) - (((127 - bias) as u32) << mantissa_bits)) as u8
}

/// The magnitude of a code without its sign.
pub(super) fn decode_magnitude(code: u8, mantissa_bits: u32, bias: i32) -> f32 {
    let exponent = i32::from(code >> mantissa_bits);
    let mantissa = f32::from(code & ((1 << mantissa_bits) - 1)) / (1u32 << mantissa_bits) as f32;
    match exponent {
        0 => mantissa * 2f32.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - bias),
    }
}
