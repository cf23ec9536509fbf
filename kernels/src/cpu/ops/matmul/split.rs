//! How a product is shared out: rows in blocks, blocks and panels among tasks.

use std::ops::Range;

use crate::cpu::ThreadPool;
use crate::cpu::fetch::Fetch;
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
/// Bytes that a thread fetches ahead: half of a 2 MiB L2.
const MOST_FETCHED: usize = 1 << 20;
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

/// Which panels and blocks a task has.
struct Parts {
    panels: usize,
    blocks: usize,
    /// Panels that stay together.
    group: usize,
    row_tasks: usize,
    panel_tasks: usize,
}

impl Parts {
    /// Of some panels and blocks of rows, for several threads. `at_once` are the blocks that a task gets at most, and the
    /// panels that few rows meet at once where there are enough of them.
    fn new(threads: usize, panels: usize, blocks: &Blocks, at_once: [usize; 2]) -> Self {
        let (count, [task_blocks, together]) = (blocks.count, at_once);
        let group = if count == 1 && panels >= PANELS * threads { PANELS } else { 1 };
        let groups = panels.div_ceil(group);
        let tasks = match together / group {
            // As many for each thread, or one would be waited for.
            several if count == 1 => groups.div_ceil(several * threads).min(TASKS_PER_READER) * threads,
            _ => TASKS_PER_THREAD * threads,
        };
        let own_rows = if blocks.m >= threads * OWN_ROWS { threads } else { 1 };
        // Few panels leave threads idle unless the rows are shared out too.
        let row_tasks =
            count.div_ceil(task_blocks).max(tasks.div_ceil(groups.max(1))).max(own_rows).min(count);
        let panel_tasks = tasks.div_ceil(row_tasks).min(groups);
        Self { panels, blocks: count, group, row_tasks, panel_tasks }
    }

    fn tasks(&self) -> usize {
        self.row_tasks * self.panel_tasks
    }

    fn panels(&self, task: usize) -> Range<usize> {
        let groups = part(self.panels.div_ceil(self.group), self.panel_tasks, task % self.panel_tasks);
        groups.start * self.group..self.panels.min(groups.end * self.group)
    }

    fn blocks(&self, task: usize) -> Range<usize> {
        part(self.blocks, self.row_tasks, task / self.panel_tasks)
    }
}

/// What compares with [`BREAK_EVEN`].
fn work(blocks: &Blocks, w: &PackedMatrix) -> usize {
    let flops = 2 * blocks.m * w.k() * w.panels() * w.panel_width();
    flops.saturating_add(w.size_bytes() * FLOPS_PER_BYTE)
}

/// Part `i` of `0..count` in so many.
fn part(count: usize, parts: usize, i: usize) -> Range<usize> {
    count * i / parts..count * (i + 1) / parts
}

/// Calls `task` until all panels have met all blocks, on several threads when that pays; of few rows, threads that wait fetch
/// what they will read first of `later`. For `at_once` see [`Parts::new`].
pub(super) fn share(
    pool: &ThreadPool,
    w: &PackedMatrix,
    blocks: &Blocks,
    at_once: [usize; 2],
    later: &[&PackedMatrix],
    task: &(dyn Fn(Task) + Sync),
) {
    let (panels, count, [task_blocks, _]) = (w.panels(), blocks.count, at_once);
    if work(blocks, w) < BREAK_EVEN || pool.threads() == 1 {
        for block in (0..count).step_by(task_blocks) {
            let blocks = block..count.min(block + task_blocks);
            task(Task { panels: 0..panels, blocks, ahead: panels, share: (0, 1) });
        }
        return;
    }
    let parts = Parts::new(pool.threads(), panels, blocks, at_once);
    let tasks = parts.tasks();
    let run = |index: usize| {
        let panels = parts.panels(index);
        let is_last = (index + 1).is_multiple_of(parts.panel_tasks);
        let goes_on = !is_last && pool.are_of_one_share(index, tasks);
        let ahead = if goes_on { parts.panels(index + 1).end } else { panels.end };
        let share = if parts.row_tasks == 1 { (pool.owner(index, tasks), pool.threads()) } else { (0, 1) };
        task(Task { panels, blocks: parts.blocks(index), ahead, share });
    };
    run_and_fetch(pool, tasks, &run, if count == 1 { later } else { &[] }, blocks, at_once);
}

/// The same of few rows and several weights, joined: each task gets some panels of one of them, or of neighbours, one by one.
pub(super) fn share_joined<'a>(
    pool: &ThreadPool,
    weights: impl Iterator<Item = &'a PackedMatrix> + Clone + Sync,
    blocks: &Blocks,
    together: usize,
    later: &[&PackedMatrix],
    task: &(dyn Fn(usize, Range<usize>) + Sync),
) {
    let panels = panels_of(weights.clone());
    if weights.clone().map(|w| work(blocks, w)).sum::<usize>() < BREAK_EVEN || pool.threads() == 1 {
        return for_weights(weights, 0..panels, &mut |index, _, panels| task(index, panels));
    }
    let parts = Parts::new(pool.threads(), panels, blocks, [1, together]);
    let run = |index: usize| {
        for_weights(weights.clone(), parts.panels(index), &mut |index, _, panels| task(index, panels));
    };
    run_and_fetch(pool, parts.tasks(), &run, later, blocks, [1, together]);
}

/// Runs tasks on all threads; those that wait fetch what they will read first of `later`.
fn run_and_fetch(
    pool: &ThreadPool,
    tasks: usize,
    task: &(dyn Fn(usize) + Sync),
    later: &[&PackedMatrix],
    blocks: &Blocks,
    at_once: [usize; 2],
) {
    let panels = panels_of(later.iter().copied());
    if panels == 0 {
        return pool.run(tasks, task);
    }
    let parts = Parts::new(pool.threads(), panels, blocks, at_once);
    pool.run_and_fetch(tasks, task, &|thread| {
        let panels = parts.panels(pool.first_task(thread, parts.tasks()));
        let mut fetch = Fetch::default();
        let first = panels.start..panels.end.min(panels.start + at_once[1]);
        for_weights(later.iter().copied(), first, &mut |_, w, panels| {
            // The first of them, if they are of several weights.
            if fetch.is_done() {
                let count = panels.len();
                let weights = w.codes_from(panels.start, 0).as_ptr();
                fetch = Fetch::new(weights, w.panel_size(), count, w.panel_size().min(MOST_FETCHED / count));
            }
        });
        fetch
    });
}

fn panels_of<'a>(weights: impl Iterator<Item = &'a PackedMatrix>) -> usize {
    weights.map(PackedMatrix::panels).sum()
}

/// Calls `f` for each of several weights of which there are panels among some of all, with those.
fn for_weights<'a>(
    weights: impl Iterator<Item = &'a PackedMatrix>,
    panels: Range<usize>,
    f: &mut dyn FnMut(usize, &'a PackedMatrix, Range<usize>),
) {
    let mut first = 0;
    for (index, w) in weights.enumerate() {
        let end = first + w.panels();
        let (from, to) = (panels.start.max(first), panels.end.min(end));
        if from < to {
            f(index, w, from - first..to - first);
        }
        first = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_meets_every_block_once() {
        for (threads, panels, rows, together) in cases() {
            let blocks = Blocks::new(rows, 4);
            let parts = Parts::new(threads, panels, &blocks, [3, together]);
            let mut met = vec![0; panels * blocks.count()];
            for task in 0..parts.tasks() {
                for panel in parts.panels(task) {
                    parts.blocks(task).for_each(|block| met[panel * blocks.count() + block] += 1);
                }
            }
            assert!(met.iter().all(|times| *times == 1), "{threads} threads, {panels} panels, {rows} rows");
        }
    }

    #[test]
    fn threads_read_equal_shares_of_the_weights() {
        for (threads, panels, _, together) in cases() {
            let parts = Parts::new(threads, panels, &Blocks::new(1, 4), [1, together]);
            let tasks = parts.tasks();
            let share = |thread: usize| -> usize {
                part(tasks, threads, thread).map(|task| parts.panels(task).len()).sum()
            };
            let shares: Vec<usize> = (0..threads).map(share).collect();
            let (least, most) = (shares.iter().min().unwrap_or(&0), shares.iter().max().unwrap_or(&0));
            // A group, and what the last one lacks.
            let off = if panels >= PANELS * threads { 2 * PANELS } else { 1 };
            assert!(most - least <= off, "{threads} threads, {panels} panels: {shares:?}");
        }
    }

    /// Threads, panels, rows, and panels that few of them meet at once.
    fn cases() -> Vec<(usize, usize, usize, usize)> {
        let mut all = Vec::new();
        for threads in [2, 3, 4, 16] {
            for panels in [1, 2, 7, 8, 24, 64, 72, 96, 176, 1000, 1571] {
                for rows in [1, 4, 5, 40, 512] {
                    all.extend([PANELS, 2 * PANELS].map(|together| (threads, panels, rows, together)));
                }
            }
        }
        all
    }
}
