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

/// Elements of a cheap operation (a sum, from L2) that are worth a task: about 2 us.
///
/// Measured: fork and join take 0.1 to 0.5 us while the workers spin, and two tasks of 1.6 us each then take 2.4 us on
/// two threads instead of 3.2 us; a sleeping worker needs some tens of microseconds to join, and until then the caller
/// works alone. So work of less than two such tasks stays on the calling thread, and all that a decode step does
/// between its products with it.
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
