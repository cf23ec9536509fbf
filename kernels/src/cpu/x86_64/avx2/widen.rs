//! Units of a panel to `f32`, without scales.

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use super::weight::Rows;
use crate::cpu::vector::weight::{Weight, for_terms, with_weight};
use crate::format::Codes;

/// Widens to `out [terms, 16]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(codes: Codes, units: &[u8], out: &mut [f32]) {
    // SAFETY: this function is compiled for the features.
    unsafe { with_weight!(Rows, codes, weight => widen_units(weight, units, out)) }
}

/// # Safety
///
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_units<W: Weight<Rows>>(weight: W, units: &[u8], out: &mut [f32]) {
    for (units, out) in units.chunks_exact(W::SIZE).zip(out.chunks_exact_mut(W::TERMS * PANEL_WIDTH)) {
        // SAFETY: `SIZE` bytes, and `TERMS` times 16 floats.
        unsafe {
            let loaded = W::load(units.as_ptr());
            for_terms!(W, TERM => {
                let [low, high] = weight.term::<TERM>(loaded);
                let out = out.as_mut_ptr().add(TERM * PANEL_WIDTH);
                _mm256_storeu_ps(out, low);
                _mm256_storeu_ps(out.add(8), high);
            });
        }
    }
}
