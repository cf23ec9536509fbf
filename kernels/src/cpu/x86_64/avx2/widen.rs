//! Weights to `f32`, 8 at a time.

use std::arch::x86_64::*;

use crate::cpu::element::Element;

/// Widens `out.len()` weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(element: Element, bytes: &[u8], out: &mut [f32]) {
    if element == Element::F32 {
        return element.format().widen(bytes, out);
    }
    let (bytes, bytes_tail) = bytes.as_chunks::<16>();
    let (out, out_tail) = out.as_chunks_mut::<8>();
    for (bytes, out) in bytes.iter().zip(out) {
        // SAFETY: an array of 16 bytes.
        let weights = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        let wide = match element {
            Element::F16 => _mm256_cvtph_ps(weights),
            _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(weights))),
        };
        // SAFETY: an array of 8 floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), wide) };
    }
    element.format().widen(bytes_tail, out_tail);
}
