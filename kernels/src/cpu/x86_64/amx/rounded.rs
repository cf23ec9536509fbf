//! Products of 8-bit integers and of bf16: 32 rows of inputs by a panel of 32 rows of weights, two tiles each.

use std::mem::MaybeUninit;

use super::PANEL_WIDTH;
use super::ends::{Ends, ROWS_AT_ONCE, Sums};
use super::narrow::{narrow, pair};
use super::piece::{Brain, Integers, LINE_BYTES, LINES, TileProduct, fetch_lines, store_tiles, zero_sums};
use super::tile::{TILE_ROWS, Tiles};
use crate::cpu::op_table::{BrainKernels, PIECE_BYTES, RoundedKernels, RoundedProduct};
use crate::cpu::x86_64::avx512::integer::{multiply_vnni, quantize};

/// Two tiles.
const ROWS: usize = 2 * TILE_ROWS;
/// Rows up to which the weights come from memory more slowly than vectors multiply them.
const VECTOR_ROWS: usize = 4;

pub(super) const INTEGER_KERNELS: RoundedKernels =
    RoundedKernels { rows: ROWS, multiply: multiply_integers, ends: true, round: quantize };

/// Products of bf16 are exact in `f32` and summed there.
pub(super) const BRAIN_KERNELS: BrainKernels = BrainKernels {
    product: RoundedKernels { rows: ROWS, multiply: multiply_brain, ends: true, round: narrow },
    pair,
};

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
    // Written before they are read: zeroing them would take as long as a short product.
    let mut sums = [MaybeUninit::<Sums>::uninit(); 2];
    // Sums that are results are stored as such.
    let is_plain = !P::HAS_SCALES && p.is_plain() && p.cols == p.panels * PANEL_WIDTH;
    let rows_per_piece = p.rows.div_ceil(p.pieces).next_multiple_of(ROWS_AT_ONCE);
    let x_piece = p.rows * PIECE_BYTES;
    // What is wanted is spread over the pieces: each has `fetches` of `steps` due.
    let (mut wanted, steps) = (p.wanted.0, p.panels * p.pieces);
    let (fetches, mut due) = (p.wanted.1.div_ceil(LINES), 0);
    let mut fetch = |due: &mut usize| {
        (*due >= steps).then(|| {
            *due -= steps;
            let lines = wanted;
            wanted = wanted.wrapping_add(LINES * LINE_BYTES);
            lines
        })
    };
    for panel in 0..p.panels {
        let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride));
        let mut row = if panel == 0 || is_plain { p.rows } else { 0 };
        // SAFETY: the caller's promise is passed on: each round reads the next piece of `x` and of `w`; the sums of a panel's
        // rows are stored when they are finished.
        unsafe {
            let ends = Ends::new::<P>(p, panel.saturating_sub(1));
            zero_sums();
            for _ in 0..p.pieces {
                due += fetches;
                P::add_piece::<TILES>(x, w, fetch(&mut due));
                while let Some(wanted) = fetch(&mut due) {
                    fetch_lines(wanted);
                }
                (x, w) = (x.wrapping_add(x_piece), w.wrapping_add(PIECE_BYTES * PANEL_WIDTH));
                if row < p.rows {
                    let end = p.rows.min(row + rows_per_piece);
                    ends.finish::<P>(p, &sums[(panel + 1) % 2], row..end);
                    row = end;
                }
            }
            if is_plain {
                store_tiles::<TILES>(p.y.wrapping_add(panel * PANEL_WIDTH), p.y_stride);
            } else {
                store_tiles::<TILES>(sums[panel % 2].as_mut_ptr().cast(), PANEL_WIDTH);
            }
        }
    }
    if !is_plain {
        let last = p.panels - 1;
        // SAFETY: as above; the sums of the last panel are stored.
        unsafe { Ends::new::<P>(p, last).finish::<P>(p, &sums[last % 2], 0..p.rows) };
    }
}
