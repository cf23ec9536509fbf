//! Products of 8-bit integers and of bf16: 32 rows of inputs by a panel of 32 rows of weights, two tiles each.

use std::arch::asm;
use std::arch::x86_64::*;

use super::tile::{TILE_ROW_BYTES, TILE_ROWS, Tiles};
use crate::args::InputRounding;
use crate::cpu::op_table::{BrainKernels, PIECE_BYTES, RoundRow, RoundedKernels, RoundedProduct, RoundedRow};
use crate::cpu::x86_64::avx512::integer::{multiply_vnni, quantize, store, store_floats};
use crate::cpu::x86_64::avx512::vector::mask;

/// Two tiles.
const ROWS: usize = 2 * TILE_ROWS;
/// Rows of weights in a panel.
const PANEL_WIDTH: usize = 32;
/// Rows up to which the weights come from memory more slowly than vectors multiply them.
const VECTOR_ROWS: usize = 4;

pub(super) const INTEGER_KERNELS: RoundedKernels =
    RoundedKernels { rows: ROWS, multiply: multiply_integers, round: quantize };

/// Products of bf16 are exact in `f32` and summed there.
pub(super) const BRAIN_KERNELS: BrainKernels =
    BrainKernels { product: RoundedKernels { rows: ROWS, multiply: multiply_brain, round: narrow }, pair };

/// See [`BrainKernels::pair`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn pair(a: &[f32], b: &[f32], out: &mut [f32]) {
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
fn narrow(row: RoundRow<'_>) -> RoundedRow {
    let RoundRow { x, rounding, codes, piece_stride } = row;
    debug_assert_eq!(rounding, InputRounding::None, "bf16 has no scales");
    const TERMS: usize = PIECE_BYTES / 2;
    for (x, codes) in x.chunks(TERMS).zip(codes.chunks_mut(piece_stride)) {
        let Some(codes) = codes.first_chunk_mut::<PIECE_BYTES>() else { break };
        let mut padded = [0.0; TERMS];
        let x = match x.first_chunk::<TERMS>() {
            Some(x) => x,
            None => {
                padded[..x.len()].copy_from_slice(x);
                &padded
            }
        };
        // SAFETY: 32 floats, and 64 bytes.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(codes.as_mut_ptr().cast(), narrow);
        }
    }
    RoundedRow { scale: 1.0, sum: 0 }
}

/// # Safety
///
/// As [`RoundedProduct`] says; the processor has AVX-512 with VNNI, and tiles that the process may use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply_integers(p: &RoundedProduct) {
    if p.rows <= VECTOR_ROWS {
        // SAFETY: the caller's promise is passed on.
        return unsafe { multiply_vnni(p) };
    }
    // SAFETY: the caller's promise is passed on; the sums are integers.
    unsafe {
        multiply(p, multiply_integers_32, multiply_integers_16, |r, panel, half, sum| {
            store(p, r, (*p.x_rows.add(r)).scale, panel, half, sum);
        });
    }
}

/// # Safety
///
/// As [`RoundedProduct`] says, of bf16; the processor has AVX-512, and tiles that the process may use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_brain(p: &RoundedProduct) {
    // SAFETY: the caller's promise is passed on; the sums are floats.
    unsafe {
        multiply(p, multiply_brain_32, multiply_brain_16, |r, panel, half, sum| {
            store_floats(p, r, panel, half, _mm512_castsi512_ps(sum));
        });
    }
}

/// Sums of 32 bits, row by row.
#[repr(align(64))]
struct Sums([[i32; PANEL_WIDTH]; ROWS]);

/// Multiplies `pieces` pieces of `rows` rows with those of a panel; with each piece it fetches so many cache lines, from
/// `later` on, into L2.
type MultiplyTiles = unsafe fn(
    x: *const i8,
    rows: usize,
    w: *const u8,
    pieces: usize,
    later: (*const u8, usize),
    sums: &mut Sums,
);

/// Panel after panel; `store` gets the row, the panel, the half and its sums.
///
/// # Safety
///
/// As [`RoundedProduct`] says; the processor has AVX-512, and tiles that the process may use.
#[inline(always)]
unsafe fn multiply(
    p: &RoundedProduct,
    multiply_32: MultiplyTiles,
    multiply_16: MultiplyTiles,
    store: impl Fn(usize, usize, usize, __m512i),
) {
    // SAFETY: the process may use tiles, and they are given back before anything else runs here.
    let _tiles = unsafe { Tiles::new(p.rows) };
    let multiply_tiles = if p.rows > TILE_ROWS { multiply_32 } else { multiply_16 };
    let mut sums = Sums([[0; PANEL_WIDTH]; ROWS]);
    let (mut later, lines) = (p.wanted.0, p.wanted.1.div_ceil(p.panels * p.pieces));
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on; rows of sums are two vectors.
        unsafe {
            multiply_tiles(p.x, p.rows, p.w.add(panel * p.panel_stride), p.pieces, (later, lines), &mut sums);
            later = later.wrapping_add(p.pieces * lines * 64);
            for (r, sums) in sums.0.iter().enumerate().take(p.rows) {
                for (half, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
                    store(r, panel, half, _mm512_load_si512(sums.as_ptr().cast()));
                }
            }
        }
    }
}

/// Defines the products of tiles with one instruction: of up to 32 rows, and of up to 16.
///
/// Weights are loaded with the hint to leave the first-level cache to the inputs, which every panel meets again.
macro_rules! tile_products {
    ($name_32:ident, $name_16:ident, $instruction:literal) => {
        /// # Safety
        ///
        /// `x [pieces, rows, 64]` and `w [pieces, 16, 32, 4]` are readable, `16 < rows <= 32`, and the tiles are shaped
        /// for `rows`.
        unsafe fn $name_32(x: *const i8, rows: usize, w: *const u8, pieces: usize, later: (*const u8, usize), sums: &mut Sums) {
            // SAFETY: each round of the loop reads the next piece of `x` and of `w`; the sums are 32 rows of 128 bytes,
            // of which `rows` are written; tiles 0 to 7 belong to this thread.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{x} + {x_row}]",
                    "tileloaddt1 tmm6, [{w} + {w_row}]",
                    "tileloaddt1 tmm7, [{w} + {w_row} + 64]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{x} + {x_row} + 1024]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "mov {line}, {lines}",
                    "test {line}, {line}",
                    "jz 4f",
                    "3:",
                    "prefetcht1 [{later}]",
                    "add {later}, 64",
                    "dec {line}",
                    "jnz 3b",
                    "4:",
                    "add {x}, {x_piece}",
                    "add {w}, 2048",
                    "dec {pieces}",
                    "jnz 2b",
                    "tilestored [{sums} + {w_row}], tmm0",
                    "tilestored [{sums} + {w_row} + 64], tmm1",
                    "tilestored [{sums} + {w_row} + 2048], tmm2",
                    "tilestored [{sums} + {w_row} + 2112], tmm3",
                    x = inout(reg) x => _,
                    w = inout(reg) w => _,
                    pieces = inout(reg) pieces => _,
                    later = inout(reg) later.0 => _,
                    lines = in(reg) later.1,
                    line = out(reg) _,
                    x_row = in(reg) TILE_ROW_BYTES,
                    w_row = in(reg) 4 * PANEL_WIDTH,
                    x_piece = in(reg) rows * PIECE_BYTES,
                    sums = in(reg) sums,
                    options(nostack)
                );
            }
        }

        /// # Safety
        ///
        /// As for more rows, with `rows <= 16`.
        unsafe fn $name_16(x: *const i8, rows: usize, w: *const u8, pieces: usize, later: (*const u8, usize), sums: &mut Sums) {
            // SAFETY: as for more rows.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm4, [{x} + {x_row}]",
                    "tileloaddt1 tmm6, [{w} + {w_row}]",
                    "tileloaddt1 tmm7, [{w} + {w_row} + 64]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    "mov {line}, {lines}",
                    "test {line}, {line}",
                    "jz 4f",
                    "3:",
                    "prefetcht1 [{later}]",
                    "add {later}, 64",
                    "dec {line}",
                    "jnz 3b",
                    "4:",
                    "add {x}, {x_piece}",
                    "add {w}, 2048",
                    "dec {pieces}",
                    "jnz 2b",
                    "tilestored [{sums} + {w_row}], tmm0",
                    "tilestored [{sums} + {w_row} + 64], tmm1",
                    x = inout(reg) x => _,
                    w = inout(reg) w => _,
                    pieces = inout(reg) pieces => _,
                    later = inout(reg) later.0 => _,
                    lines = in(reg) later.1,
                    line = out(reg) _,
                    x_row = in(reg) TILE_ROW_BYTES,
                    w_row = in(reg) 4 * PANEL_WIDTH,
                    x_piece = in(reg) rows * PIECE_BYTES,
                    sums = in(reg) sums,
                    options(nostack)
                );
            }
        }
    };
}

tile_products!(multiply_integers_32, multiply_integers_16, "tdpbssd");
tile_products!(multiply_brain_32, multiply_brain_16, "tdpbf16ps");
