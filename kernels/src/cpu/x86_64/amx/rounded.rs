//! Products of 8-bit integers and of bf16: 32 rows of inputs by a panel of 32 rows of weights, two tiles each.

use std::arch::x86_64::_mm_sfence;
use std::iter;
use std::mem::MaybeUninit;

use super::PANEL_WIDTH;
use super::ends::{Ends, Sums};
use super::narrow::{narrow, pair};
use super::piece::{Brain, Integers, LINE_BYTES, LINES, TileProduct, fetch_lines, store_tiles, zero_sums};
use super::tile::{TILE_ROWS, Tiles};
use crate::cpu::op_table::{BrainKernels, PIECE_BYTES, RoundedKernels, RoundedProduct};
use crate::cpu::x86_64::avx512::integer::{multiply_vnni, quantize};

/// Two tiles.
const ROWS: usize = 2 * TILE_ROWS;
/// Rows up to which the weights come from memory more slowly than vectors multiply them.
const VECTOR_ROWS: usize = 4;

pub(super) const INTEGER_KERNELS: RoundedKernels = RoundedKernels {
    rows: ROWS,
    multiply: multiply_integers,
    multiply_in_turn: Some(multiply_integers_in_turn),
    ends: true,
    round: quantize,
};

/// Products of bf16 are exact in `f32` and summed there.
pub(super) const BRAIN_KERNELS: BrainKernels = BrainKernels {
    product: RoundedKernels {
        rows: ROWS,
        multiply: multiply_brain,
        multiply_in_turn: Some(multiply_brain_in_turn),
        ends: true,
        round: narrow,
    },
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
        } else {
            multiply::<Integers>(iter::once(*p));
        }
    }
}

/// # Safety
///
/// As for [`multiply_integers`], of each.
unsafe fn multiply_integers_in_turn(products: &mut dyn Iterator<Item = RoundedProduct>) {
    // SAFETY: the caller's promise is passed on.
    unsafe { multiply::<Integers>(products) }
}

/// # Safety
///
/// As [`RoundedProduct`] says, of bf16; the processor has AVX-512, and tiles that the process may use.
unsafe fn multiply_brain(p: &RoundedProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe { multiply::<Brain>(iter::once(*p)) }
}

/// # Safety
///
/// As for [`multiply_brain`], of each.
unsafe fn multiply_brain_in_turn(products: &mut dyn Iterator<Item = RoundedProduct>) {
    // SAFETY: the caller's promise is passed on.
    unsafe { multiply::<Brain>(products) }
}

/// Panel after panel. While the tiles multiply one, the vectors finish the sums of the one before, a few rows with some
/// of the pieces: both kinds of instructions are under way at the same time.
///
/// # Safety
///
/// As [`RoundedProduct`] says, of each; the processor has AVX-512 with BF16, and tiles that the process may use.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn multiply<P: TileProduct>(products: impl Iterator<Item = RoundedProduct>) {
    // Written before they are read: zeroing them would take as long as a short product.
    let mut sums = [MaybeUninit::<Sums>::uninit(); 2];
    let sums = sums.as_mut_ptr();
    let (mut turn, mut unfinished): (_, Option<Ends>) = (0, None);
    let mut tiles: Option<(usize, Tiles)> = None;
    let mut streams = false;
    for p in products {
        streams |= p.past_caches;
        if tiles.as_ref().is_none_or(|(rows, _)| *rows != p.rows) {
            drop(tiles.take());
            // SAFETY: the process may use tiles; the thread has no others, and they are given back before anything else runs
            // here.
            tiles = Some((p.rows, unsafe { Tiles::new(p.rows) }));
        }
        // Sums that are results are stored as such.
        let is_plain = !P::HAS_SCALES && p.is_plain() && p.cols == p.panels * PANEL_WIDTH;
        let mut fetches = Fetches::of(&p);
        for panel in 0..p.panels {
            // SAFETY: the caller's promise is passed on. Of two places for sums, the ones that are being finished are in the
            // other, and finished before the next are stored.
            unsafe {
                let ends = unfinished.as_mut();
                let to = sums.add(turn);
                let (y, stride) = if is_plain {
                    (p.y.wrapping_add(panel * PANEL_WIDTH), p.y_stride)
                } else {
                    (to.cast(), PANEL_WIDTH)
                };
                if p.rows <= TILE_ROWS {
                    multiply_panel::<P, 1>(&p, panel, &mut fetches, ends, (y, stride));
                } else {
                    multiply_panel::<P, 2>(&p, panel, &mut fetches, ends, (y, stride));
                }
                unfinished = (!is_plain).then(|| Ends::new::<P>(&p, panel, to.cast()));
            }
            turn = 1 - turn;
        }
    }
    if let Some(mut ends) = unfinished {
        // SAFETY: as above.
        unsafe { ends.finish::<P>() };
    }
    if streams {
        // Stores past the caches are in no order with those that tell other threads of them.
        _mm_sfence();
    }
}

/// One panel, whose sums go to `y` and so many floats further from row to row; the sums of another one are finished meanwhile.
///
/// # Safety
///
/// As [`RoundedProduct`] says, for so many tiles of rows, whose shape the tiles have; the processor has AVX-512 with BF16.
#[inline(always)]
unsafe fn multiply_panel<P: TileProduct, const TILES: usize>(
    p: &RoundedProduct,
    panel: usize,
    fetches: &mut Fetches,
    mut unfinished: Option<&mut Ends>,
    (y, y_stride): (*mut f32, usize),
) {
    let (mut x, mut w) = (p.x, p.w.wrapping_add(panel * p.panel_stride));
    // SAFETY: the caller's promise is passed on: each round reads the next piece of `x` and of `w`.
    unsafe {
        zero_sums();
        for _ in 0..p.pieces {
            fetches.due += fetches.count;
            P::add_piece::<TILES>(x, w, fetches.next());
            while let Some(wanted) = fetches.next() {
                fetch_lines(wanted);
            }
            (x, w) = (x.wrapping_add(p.rows * PIECE_BYTES), w.wrapping_add(PIECE_BYTES * PANEL_WIDTH));
            if let Some(ends) = &mut unfinished {
                ends.finish_part::<P>(p.pieces);
            }
        }
        store_tiles::<TILES>(y, y_stride);
    }
}

/// What a product fetches, spread over its pieces.
struct Fetches {
    wanted: *const u8,
    /// Each piece has `count` of `steps` due.
    count: usize,
    steps: usize,
    due: usize,
}

impl Fetches {
    fn of(p: &RoundedProduct) -> Self {
        let (wanted, lines) = p.wanted;
        Self { wanted, count: lines.div_ceil(LINES), steps: p.panels * p.pieces, due: 0 }
    }

    /// The next [`LINES`] cache lines, if they are due.
    #[inline(always)]
    fn next(&mut self) -> Option<*const u8> {
        (self.due >= self.steps).then(|| {
            self.due -= self.steps;
            let lines = self.wanted;
            self.wanted = lines.wrapping_add(LINES * LINE_BYTES);
            lines
        })
    }
}
