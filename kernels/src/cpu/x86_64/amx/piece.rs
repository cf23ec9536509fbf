//! A piece of inputs times a piece of weights, in tiles.

use std::arch::asm;
use std::arch::x86_64::*;

use super::PANEL_WIDTH;
use super::tile::{TILE_ROW_BYTES, TILE_ROWS};

/// Cache lines that are fetched with a piece.
pub(super) const LINES: usize = 8;
pub(super) const LINE_BYTES: usize = 64;

/// Loads the tiles of a piece and multiplies them, with the instruction for the kind of product, and fetches
/// [`LINES`] cache lines meanwhile, or none.
///
/// Weights are loaded with the hint to leave the first-level cache to the inputs, which every panel meets again. Fetches
/// stand between the loads: in a row they would fill the buffers that both go through.
macro_rules! tile_products {
    ($instruction:literal, $tiles:ident, $x:ident, $w:ident, $wanted:ident) => {
        match ($tiles, $wanted) {
            (2, Some(wanted)) => asm!(
                "prefetcht1 [{wanted}]",
                "tileloadd tmm4, [{x} + {x_row}]",
                "prefetcht1 [{wanted} + 64]",
                "tileloaddt1 tmm6, [{w} + {w_row}]",
                "prefetcht1 [{wanted} + 128]",
                "tileloaddt1 tmm7, [{w} + {w_row} + 64]",
                "prefetcht1 [{wanted} + 192]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                "prefetcht1 [{wanted} + 256]",
                "tileloadd tmm5, [{x} + {x_row} + 1024]",
                "prefetcht1 [{wanted} + 320]",
                concat!($instruction, " tmm1, tmm4, tmm7"),
                "prefetcht1 [{wanted} + 384]",
                concat!($instruction, " tmm2, tmm5, tmm6"),
                "prefetcht1 [{wanted} + 448]",
                concat!($instruction, " tmm3, tmm5, tmm7"),
                x = in(reg) $x,
                w = in(reg) $w,
                wanted = in(reg) wanted,
                x_row = in(reg) TILE_ROW_BYTES,
                w_row = in(reg) 4 * PANEL_WIDTH,
                options(nostack, preserves_flags, readonly)
            ),
            (2, None) => asm!(
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
            ),
            (_, wanted) => {
                if let Some(wanted) = wanted {
                    fetch_lines(wanted);
                }
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
        }
    };
}

/// Fetches [`LINES`] cache lines.
#[inline(always)]
pub(super) fn fetch_lines(wanted: *const u8) {
    for line in 0..LINES {
        // SAFETY: a prefetch reads nothing the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(wanted.wrapping_add(line * LINE_BYTES).cast()) };
    }
}

/// One kind of product of tiles.
pub(super) trait TileProduct {
    /// Adds the products of a piece of so many tiles of rows at `x`, following each other, and of a panel's piece at `w` to
    /// the tiles of sums; fetches [`LINES`] cache lines from `wanted` on.
    ///
    /// # Safety
    ///
    /// There are so many rows of 64 bytes at `x`, `[16, 32, 4]` bytes at `w`, and the tiles have the shape.
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8, wanted: Option<*const u8>);

    /// Sixteen sums of a row as floats.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F.
    unsafe fn to_floats(sums: __m512i, x_scale: f32, w_scales: __m512) -> __m512;

    /// Whether rows and weights have scales.
    const HAS_SCALES: bool;
}

pub(super) struct Integers;

impl TileProduct for Integers {
    const HAS_SCALES: bool = true;

    #[inline(always)]
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8, wanted: Option<*const u8>) {
        // SAFETY: passed on.
        unsafe { tile_products!("tdpbssd", TILES, x, w, wanted) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i, x_scale: f32, w_scales: __m512) -> __m512 {
        // SAFETY: passed on.
        unsafe { _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(_mm512_set1_ps(x_scale), w_scales)) }
    }
}

/// Products of bf16 are exact in `f32` and summed there.
pub(super) struct Brain;

impl TileProduct for Brain {
    const HAS_SCALES: bool = false;

    #[inline(always)]
    unsafe fn add_piece<const TILES: usize>(x: *const i8, w: *const u8, wanted: Option<*const u8>) {
        // SAFETY: passed on.
        unsafe { tile_products!("tdpbf16ps", TILES, x, w, wanted) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i, _x_scale: f32, _w_scales: __m512) -> __m512 {
        // SAFETY: passed on.
        unsafe { _mm512_castsi512_ps(sums) }
    }
}
/// # Safety
///
/// The tiles have the shape.
#[inline(always)]
pub(super) unsafe fn zero_sums() {
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

/// Stores a panel's sums, so many words from row to row.
///
/// # Safety
///
/// The tiles have the shape of so many tiles of rows, which are writable.
#[inline(always)]
pub(super) unsafe fn store_tiles<const TILES: usize>(to: *mut f32, stride: usize) {
    let stride = 4 * stride;
    // SAFETY: a tile of sums is at most 16 rows of half of a panel.
    unsafe {
        asm!(
            "tilestored [{to} + {stride}], tmm0",
            "tilestored [{to} + {stride} + 64], tmm1",
            to = in(reg) to,
            stride = in(reg) stride,
            options(nostack, preserves_flags)
        );
        if TILES == 2 {
            asm!(
                "tilestored [{to} + {stride}], tmm2",
                "tilestored [{to} + {stride} + 64], tmm3",
                to = in(reg) to.wrapping_byte_add(TILE_ROWS * stride),
                stride = in(reg) stride,
                options(nostack, preserves_flags)
            );
        }
    }
}
