//! How a product on Hopper is cut into tiles, and who multiplies them.

/// Bytes along k that are multiplied at once.
pub(super) const STEP_BYTES: usize = 128;
/// Most blocks of a cluster that any device takes.
const MOST_SPLITS: usize = 8;
/// Fewest steps of a block that shares a tile.
const FEWEST_STEPS: usize = 2;
/// Rows of `x` up to which tiles may be low.
const FEW_ROWS: usize = 128;
/// Multiprocessors that a cluster can count on to be neighbours, and of how many eighths of all that is true: clusters that
/// do not find as many free neighbours share multiprocessors or wait for others to end (measured: 128 blocks in clusters of
/// four took twice as long as 96 in clusters of three).
const NEIGHBOURS: usize = 16;
const NEIGHBOUR_EIGHTHS: usize = 7;

/// What has to be multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work<'a> {
    /// Rows of `x`.
    pub(super) m: usize,
    /// Columns of the results that lie beside each other.
    pub(super) n: &'a [usize],
    /// Bytes of a row of `x`.
    pub(super) k_bytes: usize,
    /// Whether each result has two matrices, that share a tile.
    pub(super) is_gate: bool,
    pub(super) multiprocessors: usize,
}

/// The kernel for some work, and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Rows of a tile, or of a pair of tiles.
    pub(super) height: usize,
    /// Columns of weights of a tile.
    pub(super) width: usize,
    /// Blocks that share weights.
    pub(super) pair: usize,
    /// Blocks that share a tile, each a stretch of k.
    pub(super) splits: usize,
    /// Blocks in all.
    pub(super) blocks: usize,
}

impl Tiling {
    /// Warpgroups that multiply.
    pub(super) fn groups(&self) -> usize {
        self.height / self.pair / 64
    }

    /// Steps that a block holds at once.
    pub(super) fn stages(&self) -> usize {
        match (self.groups(), self.width) {
            (1, 64) => 6,
            (1, _) => 4,
            (_, width) => 4 * (128 + 256) / (128 + width),
        }
    }

    /// What the kernel's name ends with.
    pub(super) fn name(&self, is_gate: bool) -> String {
        let gate = if is_gate { "_gate" } else { "" };
        let split = if self.splits > 1 { "_split" } else { "" };
        format!("{}x{}{gate}{split}", self.height, self.width)
    }
}

impl Work<'_> {
    fn tiles(&self, height: usize, width: usize) -> usize {
        let cols = if self.is_gate { width / 2 } else { width };
        self.m.div_ceil(height) * self.n.iter().map(|n| n.div_ceil(cols)).sum::<usize>()
    }

    fn steps(&self) -> usize {
        self.k_bytes.div_ceil(STEP_BYTES)
    }

    /// Rows of `x` that are fetched for a warpgroup's or two's: rows that do not exist cost time, too.
    pub(super) fn box_rows(&self, groups: usize) -> usize {
        (64 * groups).min(self.m.next_multiple_of(8))
    }

    /// The tiling that should take least time.
    pub(super) fn tiling(&self) -> Tiling {
        // Pairs of blocks and wide tiles read least, but only if they leave few multiprocessors without work: a narrow tile
        // takes a bit more than half as long.
        let pairs = self.multiprocessors / 2;
        let wide = self.tiles(256, 256);
        let narrow_rounds = self.tiles(128, 128).div_ceil(self.multiprocessors);
        if self.m > FEW_ROWS && 20 * wide.div_ceil(pairs) <= 11 * narrow_rounds {
            return Tiling { height: 256, width: 256, pair: 2, splits: 1, blocks: 2 * wide.min(pairs) };
        }
        let shapes: &[(usize, usize)] = match (self.m, self.is_gate) {
            (..=64, true) => &[(64, 128)],
            (..=64, false) => &[(64, 128), (64, 64)],
            (..=FEW_ROWS, true) => &[(64, 128), (128, 128)],
            (..=FEW_ROWS, false) => &[(64, 128), (64, 64), (128, 128)],
            _ => &[(128, 128)],
        };
        let candidates = shapes.iter().flat_map(|(height, width)| {
            let most = (self.steps() / FEWEST_STEPS).clamp(1, MOST_SPLITS);
            (1..=most).filter_map(|splits| self.candidate(*height, *width, splits))
        });
        let one_block_a_tile = Tiling {
            height: 128,
            width: 128,
            pair: 1,
            splits: 1,
            blocks: self.tiles(128, 128).min(self.multiprocessors),
        };
        candidates.min_by_key(|tiling| self.duration_ns(tiling)).unwrap_or(one_block_a_tile)
    }

    /// A tiling that the device has room for.
    fn candidate(&self, height: usize, width: usize, splits: usize) -> Option<Tiling> {
        let tiles = self.tiles(height, width);
        let mut tiling = Tiling { height, width, pair: 1, splits, blocks: tiles * splits };
        if splits > 1 {
            // All at once, or the last clusters would wait for the first ones. Two low blocks fit on a multiprocessor.
            let residents = if tiling.groups() == 1 { 2 } else { 1 };
            let clusters = self.multiprocessors / NEIGHBOURS * (residents * NEIGHBOURS / splits);
            (8 * tiles <= NEIGHBOUR_EIGHTHS * clusters).then_some(tiling)
        } else {
            tiling.blocks = tiles.min(self.multiprocessors);
            // Narrow tiles are only for clusters.
            (width > 64).then_some(tiling)
        }
    }

    /// An estimate that is good for comparing: what the busiest multiprocessor, the second-level cache and the memory have to
    /// move, at rates that each of them sustains on an H100, and what sharing tiles costs.
    fn duration_ns(&self, tiling: &Tiling) -> usize {
        // Bytes per ns and multiprocessor.
        const FROM_CACHE: usize = 70;
        const FROM_CACHE_TO_ALL: usize = 40;
        const FROM_MEMORY_TO_ALL: usize = 22;
        let Tiling { height, width, splits, .. } = *tiling;
        let tiles = self.tiles(height, width);
        let step_bytes = (self.box_rows(tiling.groups()) + width) * STEP_BYTES;
        let eighths = if splits > 1 { NEIGHBOUR_EIGHTHS } else { 8 };
        let turns = (8 * tiles * splits).div_ceil(eighths * self.multiprocessors);
        let busiest = turns * self.steps().div_ceil(splits) * step_bytes / FROM_CACHE;
        let all = tiles * self.steps() * step_bytes / (FROM_CACHE_TO_ALL * self.multiprocessors);
        let matrices = if self.is_gate { 2 } else { 1 };
        let weights = self.n.iter().sum::<usize>() * self.k_bytes * matrices;
        let memory = weights / (FROM_MEMORY_TO_ALL * self.multiprocessors);
        // Barriers, and the way of the sums of each other block.
        let sharing = if splits > 1 { 700 + 50 * splits } else { 0 };
        // A high block, or two low ones, leave no room for the beginning of the next kernel.
        let alone = if tiling.groups() > 1 || splits > 1 && turns > 1 { 600 } else { 0 };
        busiest.max(all).max(memory) + busiest / 4 + sharing + alone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn clusters_are_whole_and_every_block_has_work() {
        for multiprocessors in [8, 114, 132] {
            for m in [2, 8, 33, 64, 65, 100, 128, 129, 256, 4096] {
                for n in [1, 63, 768, 2304, 4096, 14336, 50257] {
                    for k_bytes in [1, 16, 300, 768, 1536, 4096, 28672] {
                        for is_gate in [false, true] {
                            let work = Work { m, n: &[n], k_bytes, is_gate, multiprocessors };
                            let tiling = work.tiling();
                            let tiles = work.tiles(tiling.height, tiling.width);
                            assert!(
                                tiling.splits <= MOST_SPLITS && tiling.splits <= work.steps(),
                                "{work:?} {tiling:?}"
                            );
                            if tiling.splits > 1 {
                                assert_eq!(tiling.blocks, tiles * tiling.splits, "{work:?} {tiling:?}");
                                assert!(tiling.blocks <= 2 * multiprocessors, "{work:?} {tiling:?}");
                            } else {
                                assert_eq!(
                                    tiling.blocks,
                                    (tiling.pair * tiles).min(tiling.blocks),
                                    "{work:?} {tiling:?}"
                                );
                                assert!(tiling.blocks > 0, "{work:?} {tiling:?}");
                                assert!(tiling.width > 64, "{work:?} {tiling:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// The shapes of `tiles_that_blocks_share` in `tests/cuda_vs_reference` take every kernel of shared tiles, and clusters of
    /// every size.
    #[test]
    fn tests_on_devices_cover_every_cluster() {
        const WIDE: [usize; 8] = [1933, 1933, 1293, 973, 781, 653, 589, 525];
        let mut kernels = BTreeMap::<String, BTreeSet<usize>>::new();
        for splits in 1..=MOST_SPLITS {
            for (m, n) in [(3, 130), (66, WIDE[splits - 1]), (100, 77), (131, 77)] {
                for (is_gate, n) in [(false, vec![n]), (false, vec![n, 33, 20]), (true, vec![n])] {
                    let work = Work { m, n: &n, k_bytes: splits * 256 - 16, is_gate, multiprocessors: 132 };
                    let tiling = work.tiling();
                    kernels.entry(tiling.name(is_gate)).or_default().insert(tiling.splits);
                }
            }
        }
        for name in
            ["64x64_split", "64x128_split", "64x128_gate_split", "128x128_split", "128x128_gate_split"]
        {
            let splits: Vec<usize> = kernels[name].iter().copied().collect();
            assert_eq!(splits, (2..=MOST_SPLITS).collect::<Vec<_>>(), "{name}");
        }
    }
}
