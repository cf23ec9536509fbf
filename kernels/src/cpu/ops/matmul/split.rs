//! How a product is shared out: rows in blocks, blocks and panels among tasks.

use std::ops::Range;

use crate::cpu::ThreadPool;
use crate::cpu::op_table::PANELS;
use crate::cpu::packed::PackedMatrix;

/// Tasks per thread: enough to balance threads of unequal speed; with more, the end of each would weigh more.
const TASKS_PER_THREAD: usize = 3;
/// The same when all rows are in one block: a task then only reads weights, and the last one is waited for.
const TASKS_PER_READER: usize = 64;
/// Flops below which a second thread does not pay, reading weights counted as [`FLOPS_PER_BYTE`]: about 5 us of one
/// thread, ten times a fork and join.
const BREAK_EVEN: usize = 1_000_000;
/// Rows from which on a thread has rows of its own: it reads all weights, but what it writes stays in its caches, where the
/// next operation looks for it. With fewer, reading all weights from L3 takes longer than multiplying them.
const OWN_ROWS: usize = 128;
/// What a core can compute while it reads a byte of weights from L3.
const FLOPS_PER_BYTE: usize = 8;

/// `0..m` in blocks of at most a given number of rows, as equal as can be.
pub(in crate::cpu::ops) struct Blocks {
    m: usize,
    count: usize,
}

impl Blocks {
    pub(in crate::cpu::ops) fn new(m: usize, max_rows: usize) -> Self {
        Self { m, count: m.div_ceil(max_rows) }
    }

    pub(in crate::cpu::ops) fn count(&self) -> usize {
        self.count
    }

    pub(in crate::cpu::ops) fn rows(&self, block: usize) -> Range<usize> {
        self.m * block / self.count..self.m * (block + 1) / self.count
    }
}

/// A part of a product.
pub(super) struct Task {
    pub(super) panels: Range<usize>,
    pub(super) blocks: Range<usize>,
    /// Panels up to here meet the same blocks on the same thread next, unless another one helps: worth fetching ahead.
    pub(super) ahead: usize,
    /// Which part of a product's panels is the thread's: of the product that comes next, too, if it is shared out alike.
    pub(super) share: (usize, usize),
}

/// Calls `task` until all panels have met all blocks, on several threads when that pays; a task gets at most
/// `task_blocks` blocks.
pub(super) fn share(
    pool: &ThreadPool,
    w: &PackedMatrix,
    blocks: &Blocks,
    task_blocks: usize,
    task: &(dyn Fn(Task) + Sync),
) {
    let (panels, count) = (w.panels(), blocks.count);
    let flops = 2 * blocks.m * w.k() * panels * w.panel_width();
    let work = flops.saturating_add(w.size_bytes() * FLOPS_PER_BYTE);
    if work < BREAK_EVEN || pool.threads() == 1 {
        for block in (0..count).step_by(task_blocks) {
            let blocks = block..count.min(block + task_blocks);
            task(Task { panels: 0..panels, blocks, ahead: panels, share: (0, 1) });
        }
        return;
    }
    let tasks = pool.threads() * if count == 1 { TASKS_PER_READER } else { TASKS_PER_THREAD };
    // Panels stay together that a product of few rows takes at once, where there are enough of them.
    let group = if count == 1 && panels >= PANELS * pool.threads() { PANELS } else { 1 };
    let groups = panels.div_ceil(group);
    let own_rows = if blocks.m >= pool.threads() * OWN_ROWS { pool.threads() } else { 1 };
    // Few panels leave threads idle unless the rows are shared out too.
    let row_tasks = count.div_ceil(task_blocks).max(tasks.div_ceil(groups)).max(own_rows).min(count);
    let panel_tasks = tasks.div_ceil(row_tasks).min(groups);
    let tasks = row_tasks * panel_tasks;
    pool.run(tasks, &|index| {
        let (row_task, panel_task) = (index / panel_tasks, index % panel_tasks);
        let part = |count: usize, tasks: usize, i: usize| count * i / tasks..count * (i + 1) / tasks;
        let panels = |task: usize| {
            let groups = part(groups, panel_tasks, task);
            groups.start * group..panels.min(groups.end * group)
        };
        let goes_on = panel_task + 1 < panel_tasks && pool.are_of_one_share(index, tasks);
        let ahead = if goes_on { panels(panel_task + 1).end } else { panels(panel_task).end };
        let share = if row_tasks == 1 { (pool.owner(index, tasks), pool.threads()) } else { (0, 1) };
        task(Task { panels: panels(panel_task), blocks: part(count, row_tasks, row_task), ahead, share });
    });
}
