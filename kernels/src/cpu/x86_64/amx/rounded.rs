//! Products of 8-bit integers and of bf16: 32 rows of inputs by a panel of 32 rows of weights, two tiles each.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::tile::{TILE_ROW_BYTES, TILE_ROWS, Tiles};
use crate::args::{ActivationKind, InputRounding};
use crate::cpu::op_table::{BrainKernels, PIECE_BYTES, RoundRow, RoundedKernels, RoundedProduct, RoundedRow};
use crate::cpu::x86_64::avx512::integer::{Columns, multiply_vnni, quantize};
use crate::cpu::x86_64::avx512::vector::mask;

/// Two tiles.
const ROWS: usize = 2 * TILE_ROWS;
/// Rows of weights in a panel.
const PANEL_WIDTH: usize = 32;
/// Rows up to which the weights come from memory more slowly than vectors multiply them.
const VECTOR_ROWS: usize = 4;

pub(super) const INTEGER_KERNELS: RoundedKernels =
    RoundedKernels { rows: ROWS, multiply: multiply_integers, ends: true, round: quantize };

/// Products of bf16 are exact in `f32` and summed there.
pub(super) const BRAIN_KERNELS: BrainKernels = BrainKernels {
    product: RoundedKernels { rows: ROWS, multiply: multiply_brain, ends: true, round: narrow },
    pair,
};

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
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if p.rows <= VECTOR_ROWS {
            multiply_vnni(p);
        } else if p.rows <= TILE_ROWS {
            multiply::<Integers, 1>(p);
        } else {
            multiply::<Integers, 2>(p);
        }
    }
}

/// # Safety
///
/// As [`RoundedProduct`] says, of bf16; the processor has AVX-512, and tiles that the process may use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_brain(p: &RoundedProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if p.rows <= TILE_ROWS {
            multiply::<Brain, 1>(p);
        } else {
            multiply::<Brain, 2>(p);
        }
    }
}

/// Sums of 32 bits, row by row.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[i32; PANEL_WIDTH]; ROWS]);

/// Loads the tiles of a piece and multiplies them, with the instruction for the kind of product.
///
/// Weights are loaded with the hint to leave the first-level cache to the inputs, which every panel meets again.
macro_rules! tile_products {
    ($instruction:literal, $tiles:ident, $x:ident, $w:ident) => {
        if $tiles == 2 {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}]",
                "tileloaddt1 tmm6, [{w} + {w_row}]",
                "tileloaddt1 tmm7, [{w} + {w_row} + 64]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                "tileloadd tmm5, [{x} + {x_row} + 1024]",
                concat!($instruction, " tmm1, tmm4, tmm7"),
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                x = in(reg) $x,
                w = in(reg) $w,
                x_row = in(reg) TILE_ROW_BYTES,
                w_row = in(reg) 4 * PANEL_WIDTH,
                options(nostack, preserves_flags, readonly)
            );
        } else {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}]",
                "tileloaddt1 tmm6, [{w} + {w_row}]",
                "tileloaddt1 tmm7, [{w} + {w_row} + 64]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                concat!($instruction, " tmm1, tmm4, tmm7"),
                x = in(reg) $x,
                w = in(reg) $w,
                x_row = in(reg) TILE_ROW_BYTES,
                w_row = in(reg) 4 * PANEL_WIDTH,
                options(nostack, preserves_flags, readonly)
            );
        }
    };
}

/// One kind of product of tiles.
trait TileProduct {
    /// Adds the products of a piece of so many tiles of rows at `x`, following each other, and of a panel's piece at `w` to
    /// the tiles of sums.
    ///
    /// # Safety
    ///
    /// There are so many rows of 64 bytes at `x`, `[16, 32, 4]` bytes at `w`, and the tiles have the shape.
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8);

    /// Sixteen sums of a row as floats.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F.
    unsafe fn to_floats(sums: __m512i, x_scale: f32, w_scales: __m512) -> __m512;

    /// Whether rows and weights have scales.
    const HAS_SCALES: bool;
}

struct Integers;

impl TileProduct for Integers {
    const HAS_SCALES: bool = true;

    #[inline(always)]
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8) {
        // SAFETY: passed on.
        unsafe { tile_products!("tdpbssd", TILES, x, w) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i, x_scale: f32, w_scales: __m512) -> __m512 {
        // SAFETY: passed on.
        unsafe { _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(_mm512_set1_ps(x_scale), w_scales)) }
    }
}

/// Products of bf16 are exact in `f32` and summed there.
struct Brain;

impl TileProduct for Brain {
    const HAS_SCALES: bool = false;

    #[inline(always)]
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8) {
        // SAFETY: passed on.
        unsafe { tile_products!("tdpbf16ps", TILES, x, w) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i, _x_scale: f32, _w_scales: __m512) -> __m512 {
        // SAFETY: passed on.
        unsafe { _mm512_castsi512_ps(sums) }
    }
}

/// Panel after panel. While the tiles multiply one, the vectors finish the sums of the one before, a few rows with each
/// piece: both kinds of instructions are under way at the same time.
///
/// # Safety
///
/// As [`RoundedProduct`] says, of so many tiles of rows; the processor has AVX-512 with BF16, and tiles that the process may
/// use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn multiply<P: TileProduct, const TILES: usize>(p: &RoundedProduct) {
    // SAFETY: the process may use tiles, and they are given back before anything else runs here.
    let _tiles = unsafe { Tiles::new(p.rows) };
    let mut sums = [Sums([[0; PANEL_WIDTH]; ROWS]); 2];
    let (mut later, lines) = (p.wanted.0, p.wanted.1.div_ceil(p.panels * p.pieces));
    let (rows_per_piece, x_piece) = (p.rows.div_ceil(p.pieces), p.rows * PIECE_BYTES);
    for panel in 0..p.panels {
        let [even, odd] = &mut sums;
        let (sums, finished) = if panel % 2 == 0 { (even, odd) } else { (odd, even) };
        let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride));
        let mut row = if panel == 0 { p.rows } else { 0 };
        // SAFETY: the caller's promise is passed on: each round reads the next piece of `x` and of `w`.
        unsafe {
            zero_sums();
            for _ in 0..p.pieces {
                P::add_piece::<TILES>(x, w);
                (x, w) = (x.wrapping_add(x_piece), w.wrapping_add(PIECE_BYTES * PANEL_WIDTH));
                for _ in 0..lines {
                    _mm_prefetch::<_MM_HINT_T1>(later.cast());
                    later = later.wrapping_add(64);
                }
                if row < p.rows {
                    let end = p.rows.min(row + rows_per_piece);
                    finish::<P>(p, finished, panel - 1, row..end);
                    row = end;
                }
            }
            store_sums::<TILES>(sums);
        }
    }
    // SAFETY: as above.
    unsafe { finish::<P>(p, &sums[(p.panels - 1) % 2], p.panels - 1, 0..p.rows) };
}

/// Turns the sums of some rows of a panel into results.
///
/// # Safety
///
/// As [`RoundedProduct`] says; the processor has AVX-512 with BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn finish<P: TileProduct>(p: &RoundedProduct, sums: &Sums, panel: usize, rows: Range<usize>) {
    for half in 0..2 {
        let scales = p.w_scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(16 * half);
        // SAFETY: scales are readable for whole panels.
        let w_scales = if P::HAS_SCALES { unsafe { _mm512_loadu_ps(scales) } } else { _mm512_setzero_ps() };
        // The kind is a constant in each of the loops.
        macro_rules! rows {
            ($($kind:ident)?) => {
                // SAFETY: there is a scale for each row, and the caller's promise is passed on.
                unsafe {
                    let columns = Columns::new(p, panel, half);
                    for r in rows.clone() {
                        let x_scale = if P::HAS_SCALES { (*p.x_rows.add(r)).scale } else { 1.0 };
                        let sums = _mm512_load_si512(sums.0[r].as_ptr().wrapping_add(16 * half).cast());
                        let values = P::to_floats(sums, x_scale, w_scales);
                        let results = columns.end(r, values, None$(.or(Some(ActivationKind::$kind)))?);
                        if p.y_pieces.is_null() {
                            columns.store(r, results);
                        } else {
                            let piece = p.y_pieces.add((panel * p.rows + r) * PIECE_BYTES);
                            let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(results));
                            _mm256_storeu_si256(piece.add(half * PIECE_BYTES / 2).cast(), narrow);
                        }
                    }
                }
            };
        }
        match p.ending.activation {
            None => rows!(),
            Some(ActivationKind::GeluErf) => rows!(GeluErf),
            Some(ActivationKind::GeluTanh) => rows!(GeluTanh),
            Some(ActivationKind::GeluSigmoid) => rows!(GeluSigmoid),
            Some(ActivationKind::Relu) => rows!(Relu),
            Some(ActivationKind::Silu) => rows!(Silu),
            Some(ActivationKind::Tanh) => rows!(Tanh),
        }
    }
}

/// # Safety
///
/// The tiles have the shape.
#[inline(always)]
unsafe fn zero_sums() {
    // SAFETY: tiles 0 to 3 belong to this thread.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, preserves_flags, nomem)
        );
    }
}

/// # Safety
///
/// The tiles have the shape of so many tiles of rows.
#[inline(always)]
unsafe fn store_sums<const TILES: usize>(sums: &mut Sums) {
    let stride = 4 * PANEL_WIDTH;
    // SAFETY: a tile of sums is at most 16 rows of half of the 128 bytes between them.
    unsafe {
        asm!(
            "tilestored [{sums} + {stride}], tmm0",
            "tilestored [{sums} + {stride} + 64], tmm1",
            sums = in(reg) sums,
            stride = in(reg) stride,
            options(nostack, preserves_flags)
        );
        if TILES == 2 {
            asm!(
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 2112], tmm3",
                sums = in(reg) sums,
                stride = in(reg) stride,
                options(nostack, preserves_flags)
            );
        }
    }
}
