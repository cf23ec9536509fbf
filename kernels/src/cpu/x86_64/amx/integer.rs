//! Products of 8-bit integers: 32 rows of inputs by a panel of 32 rows of weights, two tiles each.

use std::arch::asm;
use std::arch::x86_64::*;

use super::tile::{TILE_ROW_BYTES, TILE_ROWS, Tiles};
use crate::cpu::op_table::{INTEGER_TERMS, IntegerKernels, IntegerProduct};
use crate::cpu::x86_64::avx512::integer::{multiply_vnni, quantize, store};

/// Two tiles.
const ROWS: usize = 2 * TILE_ROWS;
/// Rows of weights in a panel.
const PANEL_WIDTH: usize = 32;
/// Rows up to which the weights come from memory more slowly than vectors multiply them.
const VECTOR_ROWS: usize = 4;

pub(super) const KERNELS: IntegerKernels = IntegerKernels { rows: ROWS, multiply, quantize };

/// # Safety
///
/// As [`IntegerProduct`] says; the processor has AVX-512 with VNNI, and tiles that the process may use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply(p: &IntegerProduct) {
    if p.rows <= VECTOR_ROWS {
        // SAFETY: the caller's promise is passed on.
        return unsafe { multiply_vnni(p) };
    }
    // SAFETY: the process may use tiles, and they are given back before anything else runs here.
    let _tiles = unsafe { Tiles::new(p.rows) };
    let mut sums = Sums([[0; PANEL_WIDTH]; ROWS]);
    for panel in 0..p.panels {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            let w = p.w.add(panel * p.panel_stride);
            if p.rows > TILE_ROWS {
                multiply_32(p.x, p.rows, w, p.k / INTEGER_TERMS, &mut sums);
            } else {
                multiply_16(p.x, p.rows, w, p.k / INTEGER_TERMS, &mut sums);
            }
            for r in 0..p.rows {
                let scale = (*p.x_rows.add(r)).scale;
                for half in 0..2 {
                    let sum = _mm512_load_si512(sums.0[r][16 * half..].as_ptr().cast());
                    store(p, r, scale, panel, half, sum);
                }
            }
        }
    }
}

/// Sums of integers, row by row.
#[repr(align(64))]
struct Sums([[i32; PANEL_WIDTH]; ROWS]);

/// # Safety
///
/// `x [pieces, rows, 64]` and `w [pieces, 16, 32, 4]` are readable, `16 < rows <= 32`, and the tiles are shaped for `rows`.
#[inline]
unsafe fn multiply_32(x: *const i8, rows: usize, w: *const u8, pieces: usize, sums: &mut Sums) {
    // SAFETY: each round of the loop reads the next piece of `x` and of `w`; the sums are 32 rows of 128 bytes, of which
    // `rows` are written; tiles 0 to 7 belong to this thread.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {x_row}]",
            "tileloadd tmm6, [{w} + {w_row}]",
            "tileloadd tmm7, [{w} + {w_row} + 64]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x} + {x_row} + 1024]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
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
            x_row = in(reg) TILE_ROW_BYTES,
            w_row = in(reg) 4 * PANEL_WIDTH,
            x_piece = in(reg) rows * INTEGER_TERMS,
            sums = in(reg) sums,
            options(nostack)
        );
    }
}

/// # Safety
///
/// As [`multiply_32`], with `rows <= 16`.
#[inline]
unsafe fn multiply_16(x: *const i8, rows: usize, w: *const u8, pieces: usize, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{x} + {x_row}]",
            "tileloadd tmm6, [{w} + {w_row}]",
            "tileloadd tmm7, [{w} + {w_row} + 64]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "add {x}, {x_piece}",
            "add {w}, 2048",
            "dec {pieces}",
            "jnz 2b",
            "tilestored [{sums} + {w_row}], tmm0",
            "tilestored [{sums} + {w_row} + 64], tmm1",
            x = inout(reg) x => _,
            w = inout(reg) w => _,
            pieces = inout(reg) pieces => _,
            x_row = in(reg) TILE_ROW_BYTES,
            w_row = in(reg) 4 * PANEL_WIDTH,
            x_piece = in(reg) rows * INTEGER_TERMS,
            sums = in(reg) sums,
            options(nostack)
        );
    }
}
