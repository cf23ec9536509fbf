//! Powers of two as bytes: the scales of microscaling blocks (OCP Microscaling Formats v1.0, section 5.4.1).

/// The value of a code: `2^(code - 127)`, NaN for 255.
pub fn decode(code: u8) -> f32 {
    match code {
        // The only value below the normal range.
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

/// The smallest power of two that is at least `value`; the smallest there is for zero, the largest beyond the range.
pub fn encode_up(value: f64) -> u8 {
    let mut code = (value.log2().ceil() + 127.0).clamp(0.0, 254.0) as u8;
    // The logarithm may be off by a rounding.
    while code > 0 && f64::from(decode(code - 1)) >= value {
        code -= 1;
    }
    while code < 254 && f64::from(decode(code)) < value {
        code += 1;
    }
    code
}
