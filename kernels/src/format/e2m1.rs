//! The 4-bit float of the block formats: 1 sign, 2 exponent and 1 mantissa bit, bias 1, neither infinity nor NaN (OCP
//! Microscaling Formats v1.0, section 5.3.3).

/// The largest value.
pub const MAX: f32 = 6.0;

/// The values of the codes; bit 3 is the sign.
pub const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The nearest code, ties to even codes; magnitudes beyond 6 saturate, NaN becomes zero.
pub fn encode(value: f32) -> u8 {
    let magnitude = value.abs();
    let code = u8::from(magnitude > 0.25)
        + u8::from(magnitude >= 0.75)
        + u8::from(magnitude > 1.25)
        + u8::from(magnitude >= 1.75)
        + u8::from(magnitude > 2.5)
        + u8::from(magnitude >= 3.5)
        + u8::from(magnitude > 5.0);
    if value.is_sign_negative() && !value.is_nan() { code | 8 } else { code }
}

/// Puts a code into a row of nibbles.
pub(super) fn put(codes: &mut [u8], index: usize, code: u8) {
    codes[index / 2] |= code << (index % 2 * 4);
}

/// Takes a code from a row of nibbles.
pub(super) fn get(codes: &[u8], index: usize) -> usize {
    usize::from(codes[index / 2] >> (index % 2 * 4) & 15)
}
