//! The order of the rows of `x` as a constant of a panel kernel, so that their addresses are.

use crate::cpu::op_table::SCORES_STRIDE;

/// [`RowOrder`](crate::cpu::op_table::RowOrder) as a constant of a kernel.
pub(in crate::cpu) trait Order {
    /// Elements from row to row.
    fn row_stride() -> usize;
    /// Elements from one `k` of a row to the next.
    fn k_stride(rows: usize) -> usize;
}

/// [`RowOrder::Interleaved`](crate::cpu::op_table::RowOrder::Interleaved).
pub(in crate::cpu) struct InterleavedOrder;

impl Order for InterleavedOrder {
    #[inline(always)]
    fn row_stride() -> usize {
        1
    }

    #[inline(always)]
    fn k_stride(rows: usize) -> usize {
        rows
    }
}

/// [`RowOrder::Scores`](crate::cpu::op_table::RowOrder::Scores).
pub(in crate::cpu) struct ScoresOrder;

impl Order for ScoresOrder {
    #[inline(always)]
    fn row_stride() -> usize {
        SCORES_STRIDE
    }

    #[inline(always)]
    fn k_stride(_rows: usize) -> usize {
        1
    }
}
