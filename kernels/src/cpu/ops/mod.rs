//! The safe front of each operation: check the shapes, split into tasks, run.
//!
//! Written once for all instruction sets; what differs between them is in the [`OpTable`](super::op_table::OpTable).

pub(super) mod attention;
pub(super) mod elementwise;
pub(super) mod embed;
pub(super) mod matmul;
pub(super) mod norm;
pub(super) mod rope;
pub(super) mod rows;
pub(super) mod softmax;

use std::ops::Range;

use crate::args::Rows;
use crate::cpu::ThreadPool;

/// Work below which a second thread does not pay, in units of one element of a cheap operation.
const BREAK_EVEN: usize = 16 * 1024;

/// Row `r` of a checked view.
fn row<'a>(x: &Rows<'a>, r: usize) -> &'a [f32] {
    &x.data[r * x.stride..][..x.cols]
}

/// Runs `f` on ranges that cover `0..rows`, on several threads when `rows * cost` elements are worth it.
fn for_row_ranges(pool: &ThreadPool, rows: usize, cost: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    let work = rows.saturating_mul(cost);
    let tasks = (work / BREAK_EVEN).min(rows).min(4 * pool.threads());
    if tasks < 2 {
        f(0..rows);
    } else {
        pool.run(tasks, &|task| f(rows * task / tasks..rows * (task + 1) / tasks));
    }
}
