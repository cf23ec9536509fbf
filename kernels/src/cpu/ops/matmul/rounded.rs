//! Products of 8-bit integers, or of bf16: inputs are rounded once, row by row, to the kind of the weights.

use std::ops::Range;
use std::ptr;

use super::End;
use super::split::{Blocks, Task, share};
use crate::args::Rows;
use crate::cpu::CpuKernels;
use crate::cpu::op_table::{
    Ending, PANELS, PIECE_BYTES, RoundRow, RoundedKernels, RoundedProduct, RoundedRow,
};
use crate::cpu::ops::for_row_ranges;
use crate::cpu::output::Output;
use crate::cpu::packed::{PackedMatrix, Scales};
use crate::cpu::prefetch;
use crate::cpu::rounded_input::{Kind, RoundedMemory, RoundedView};

/// Codes of `x` that a task takes at most: half of a 2 MiB L2, so that they stay there while the panels pass.
const TASK_CODES: usize = 1 << 20;
/// Bytes of weights that a few blocks of rows meet before they meet the next ones: a fifth, and another one for those that
/// come from memory meanwhile. Fewer at a time would visit more rows of `y`, each on a page of its own, for fewer columns.
const FEW_BLOCKS_WEIGHTS: usize = 384 << 10;
/// The same for more blocks, which give the next weights longer to come and have more of `y` to visit: a quarter.
const MANY_BLOCKS_WEIGHTS: usize = 1 << 19;
/// Blocks that are few.
const FEW_BLOCKS: usize = 8;
/// Bytes of results that are written past the caches: twice a 2 MiB L2. To be written there, each line would come from memory
/// first, beside weights and inputs, and leave before it is read.
const LARGE_RESULTS: usize = 4 << 20;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Where a product goes: `[m, n]` floats, or bf16 in blocks of `[pieces, rows, 64]` bytes, which only products of bf16 do.
pub(super) enum Target<'a> {
    Rows(&'a mut [f32]),
    Pieces(&'a mut [f32]),
}

/// The product, none of whose sizes is zero, of weights that `rounded` multiplies; `later` are weights of the one that comes
/// next.
#[allow(clippy::too_many_arguments, reason = "the parts of one call")]
pub(super) fn multiply(
    kernels: &CpuKernels,
    rounded: &RoundedKernels,
    x: RoundedView<'_>,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    end: End<'_>,
    later: Option<&PackedMatrix>,
    target: Target<'_>,
) {
    let (m, pieces) = (x.rows.len(), w.units() * w.codes().unit_size() / PIECE_BYTES);
    assert_eq!(x.codes.len(), m * pieces * PIECE_BYTES, "codes of x");
    let blocks = Blocks::new(m, rounded.rows);
    let (y, is_rounded) = match target {
        Target::Rows(y) => (y, false),
        Target::Pieces(pieces) => (pieces, true),
    };
    let product =
        Product { kernels: rounded, x, pieces, w, bias, end, later, y: Output::new(y), is_rounded, blocks };
    let task_blocks = (TASK_CODES / (rounded.rows * pieces * PIECE_BYTES)).max(1);
    share(&kernels.pool, w, &product.blocks, [task_blocks, PANELS], later.as_slice(), &|task| {
        product.task(task)
    });
}

/// Rounds each block of rows, none of whose sizes is zero.
pub(super) fn round(kernels: &CpuKernels, kind: Kind, x: &Rows<'_>, memory: &mut RoundedMemory<'_>) {
    round_rows(kernels, kind, [x.rows, x.cols], memory, 2, &|r| {
        let (stride, x) = (x.stride, &x.data[r * x.stride..][..x.cols]);
        // Hardware does not look beyond a page, and a row is about one.
        for line in x.chunks(LINE_BYTES / size_of::<f32>()) {
            prefetch::read(line.as_ptr().wrapping_add(stride));
        }
        x
    });
}

/// Rounds the rows that `row` gives, which is asked once for each; `cost` says what an element costs.
pub(in crate::cpu::ops) fn round_rows<'a>(
    kernels: &CpuKernels,
    kind: Kind,
    [m, k]: [usize; 2],
    memory: &mut RoundedMemory<'_>,
    cost: usize,
    row: &(dyn Fn(usize) -> &'a [f32] + Sync),
) {
    let Some(rounded) = kind.kernels(kernels.table) else { return };
    let (words, blocks, rounding) = (kind.words(k), Blocks::new(m, rounded.rows), kind.rounding());
    let (codes, rows_out) = (Output::new(memory.codes), Output::new(memory.rows));
    for_row_ranges(&kernels.pool, blocks.count(), cost * k * m.div_ceil(blocks.count()), &|range| {
        for rows in range.map(|block| blocks.rows(block)) {
            // SAFETY: blocks do not overlap, and each belongs to one task.
            let codes = unsafe { codes.range(rows.start * words..rows.end * words) };
            // SAFETY: as above; two words for each row.
            let rows_out = unsafe { rows_out.range(2 * rows.start..2 * rows.end) };
            let codes = bytemuck::cast_slice_mut::<f32, i8>(codes);
            let rows_out = bytemuck::cast_slice_mut::<f32, RoundedRow>(rows_out);
            let piece_stride = rows.len() * PIECE_BYTES;
            for (i, (r, out)) in rows.zip(rows_out).enumerate() {
                let (x, codes) = (row(r), &mut codes[i * PIECE_BYTES..]);
                // SAFETY: `kernels` exists, so the processor has the instruction set.
                *out = unsafe { (rounded.round)(RoundRow { x, rounding, codes, piece_stride }) };
            }
        }
    });
}

struct Product<'a> {
    kernels: &'a RoundedKernels,
    x: RoundedView<'a>,
    /// Pieces of a row, padding included.
    pieces: usize,
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    end: End<'a>,
    /// Weights of the product that comes next.
    later: Option<&'a PackedMatrix>,
    y: Output<'a>,
    /// Whether `y` holds pieces of bf16.
    is_rounded: bool,
    blocks: Blocks,
}

impl Product<'_> {
    /// All blocks meet some panels before they meet the next ones, which come from memory meanwhile.
    fn task(&self, Task { panels, blocks, ahead, share }: Task) {
        if blocks.len() == 1 {
            let product = self.product(panels, blocks.start, (ptr::null(), 0));
            // SAFETY: as in `multiply`.
            return unsafe { (self.kernels.multiply)(&product) };
        }
        let weights = if blocks.len() > FEW_BLOCKS { MANY_BLOCKS_WEIGHTS } else { FEW_BLOCKS_WEIGHTS };
        // As equal as can be: a short group at the end would leave the next weights little time to come.
        let groups = panels.len().div_ceil((weights / self.w.panel_size()).max(1));
        let together = panels.len().div_ceil(groups);
        let products = panels.clone().step_by(together).flat_map(|first| {
            let end = panels.end.min(first + together);
            let next = ahead.min(end + together) - end;
            // Behind the last weights come those of the next product.
            let (wanted, wanted_bytes) = match self.later {
                _ if next > 0 => (self.w.codes_from(end, 0), next * self.w.panel_size()),
                Some(later) => {
                    let (share, shares) = share;
                    let bytes = (end - first) * self.w.panel_size();
                    (later.codes_from(later.panels() * share / shares, 0), bytes.min(later.size_bytes()))
                }
                None => (&[][..], 0),
            };
            let lines = wanted_bytes.div_ceil(LINE_BYTES).div_ceil(blocks.len());
            blocks.clone().enumerate().map(move |(index, block)| {
                let wanted = wanted.as_ptr().wrapping_add(index * lines * LINE_BYTES);
                self.product(first..end, block, (wanted, lines))
            })
        });
        self.multiply(products);
    }

    fn multiply(&self, mut products: impl Iterator<Item = RoundedProduct>) {
        // SAFETY: a `CpuKernels` exists, so the processor has the instruction set; `product` made the products.
        unsafe {
            match self.kernels.multiply_in_turn {
                Some(multiply) => multiply(&mut products),
                None => products.for_each(|product| (self.kernels.multiply)(&product)),
            }
        }
    }

    /// One block of rows times some panels, fetching so many cache lines from somewhere on the side.
    ///
    /// `x` and `x_rows` are those of the block; the panels exist (asserted) and hold as many pieces; `bias` has `n` elements, a
    /// residual `m` rows of them; `y` holds `m * n` elements, or a piece for each row and panel, of which only this task touches
    /// the block's rows in the panels' columns.
    fn product(&self, panels: Range<usize>, block: usize, wanted: (*const u8, usize)) -> RoundedProduct {
        let (n, width) = (self.w.n(), self.w.panel_width());
        let rows = self.blocks.rows(block);
        let first = panels.start * width;
        let w_scales = match self.w.panel_scales(panels.start, &(0..self.w.k())) {
            Scales::Rows(scales) => scales,
            _ => ptr::null(),
        };
        let row_bytes = self.pieces * PIECE_BYTES;
        assert!(panels.end <= self.w.panels(), "panels of w");
        let residual =
            self.end.residual.map(|residual| residual.data[rows.start * residual.stride + first..].as_ptr());
        let ending = Ending {
            activation: self.end.activation,
            residual: residual.unwrap_or(ptr::null()),
            residual_stride: self.end.residual.map_or(0, |residual| residual.stride),
        };
        let y = self.y.pointer();
        let (y, y_pieces) = if self.is_rounded {
            // A panel's results are a piece.
            let pieces = rows.start * n.div_ceil(width) + panels.start * rows.len();
            (ptr::null_mut(), y.cast::<u8>().wrapping_add(pieces * PIECE_BYTES))
        } else {
            (y.wrapping_add(rows.start * n + first), ptr::null_mut())
        };
        RoundedProduct {
            x: self.x.codes[rows.start * row_bytes..rows.end * row_bytes].as_ptr(),
            rows: rows.len(),
            x_rows: self.x.rows[rows.clone()].as_ptr(),
            panels: panels.len(),
            w: self.w.codes_from(panels.start, 0).as_ptr(),
            w_scales,
            panel_stride: self.w.panel_size(),
            pieces: self.pieces,
            y,
            y_stride: n,
            y_pieces,
            cols: (panels.len() * width).min(n - first),
            bias: self.bias.map_or(ptr::null(), |bias| bias[first..].as_ptr()),
            ending,
            past_caches: size_of::<f32>() * self.x.rows.len() * n >= LARGE_RESULTS,
            wanted,
        }
    }
}
