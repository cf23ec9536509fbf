//! Weights to `f32`, 16 at a time.

use std::arch::x86_64::*;

use crate::cpu::element::Element;

/// Widens `out.len()` weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn widen(element: Element, bytes: &[u8], out: &mut [f32]) {
    if element == Element::F32 {
        return element.format().widen(bytes, out);
    }
    let (bytes, bytes_tail) = bytes.as_chunks::<32>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (bytes, out) in bytes.iter().zip(out) {
        // SAFETY: an array of 32 bytes.
        let weights = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let wide = match element {
            Element::F16 => _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(weights),
            _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(weights))),
        };
        // SAFETY: an array of 16 floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), wide) };
    }
    element.format().widen(bytes_tail, out_tail);
}
