//! Floats rounded to bf16, as the tiles read them.

use std::arch::x86_64::*;

use crate::args::InputRounding;
use crate::cpu::op_table::{PIECE_BYTES, RoundRow, RoundedRow};
use crate::cpu::x86_64::avx512::vector::mask;

/// See [`crate::cpu::op_table::BrainKernels::pair`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn pair(a: &[f32], b: &[f32], out: &mut [f32]) {
    // Of the 16 elements of each, which follow each other, the first ones, the second ones and so on.
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    for (group, out) in out.chunks_mut(16).enumerate() {
        let first = 16 * group;
        // SAFETY: the masks cover what is left of each slice.
        unsafe {
            let load = |x: &[f32]| {
                _mm512_maskz_loadu_ps(mask(x.len().saturating_sub(first)), x.as_ptr().wrapping_add(first))
            };
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(load(b), load(a)));
            let pairs = _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), both);
            _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask(out.len()), pairs);
        }
    }
}

/// To bf16, nearest even; subnormal numbers become zero, as they do in the products.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn narrow(row: RoundRow<'_>) -> RoundedRow {
    let RoundRow { x, rounding, codes, piece_stride } = row;
    debug_assert_eq!(rounding, InputRounding::None, "bf16 has no scales");
    const TERMS: usize = PIECE_BYTES / 2;
    let (full, tail) = x.as_chunks::<TERMS>();
    let mut pieces = codes.chunks_mut(piece_stride).map_while(|codes| codes.first_chunk_mut::<PIECE_BYTES>());
    for (x, piece) in full.iter().zip(&mut pieces) {
        narrow_piece(x, piece);
    }
    if !tail.is_empty()
        && let Some(piece) = pieces.next()
    {
        let mut padded = [0.0; TERMS];
        padded[..tail.len()].copy_from_slice(tail);
        narrow_piece(&padded, piece);
    }
    RoundedRow { scale: 1.0, sum: 0 }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn narrow_piece(x: &[f32; PIECE_BYTES / 2], piece: &mut [i8; PIECE_BYTES]) {
    // SAFETY: 32 floats, and 64 bytes.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
        let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
        _mm512_storeu_si512(piece.as_mut_ptr().cast(), narrow);
    }
}
