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
        // Narrow tiles are only for clusters, and low ones share them only if they are narrow or of a gate.
        let most = (self.steps() / FEWEST_STEPS).clamp(1, MOST_SPLITS);
        let low = if self.m > FEW_ROWS { 0 } else { 1 };
        let high = if self.m > 64 { most } else { 1 };
        let shapes = if self.is_gate {
            [(64, 128, 1, low * most), (128, 128, 1, high), (64, 64, 2, 0)]
        } else {
            [(64, 128, 1, low), (128, 128, 1, high), (64, 64, 2, low * most)]
        };
        let candidates = shapes.iter().flat_map(|&(height, width, fewest, most)| {
            (fewest..=most).filter_map(move |splits| self.candidate(height, width, splits))
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
            Some(tiling)
        }
    }

    /// An estimate that is good for comparing: what the busiest multiprocessor and the memory have to move, at rates that they
    /// sustain on an H100, and what sharing tiles costs. Its constants make the least of what the choices for 40 products (all
    /// tilings of 768 to 14336 columns, 16 to 128 rows, f16 and int8, in chains with cold weights) lose against the best
    /// ones: 0.7 % on average, 11 % at most.
    fn duration_ns(&self, tiling: &Tiling) -> usize {
        // Bytes per ns and multiprocessor.
        const TO_ONE: usize = 48;
        const FROM_MEMORY: usize = 18;
        // Of the sums that a block asks others for.
        const SUMS: usize = 9;
        let Tiling { height, width, splits, .. } = *tiling;
        let tiles = self.tiles(height, width);
        let rows = self.box_rows(tiling.groups());
        let eighths = if splits > 1 { NEIGHBOUR_EIGHTHS } else { 8 };
        let turns = (8 * tiles * splits).div_ceil(eighths * self.multiprocessors);
        let busiest = turns * self.steps().div_ceil(splits) * (rows + width) * STEP_BYTES / TO_ONE;
        let matrices = if self.is_gate { 2 } else { 1 };
        let weights = self.n.iter().sum::<usize>() * self.k_bytes * matrices;
        let memory = weights / (FROM_MEMORY * self.multiprocessors);
        let sharing = if splits > 1 { 800 + rows * width * size_of::<f32>() / SUMS } else { 0 };
        busiest.max(memory) + busiest / 16 + sharing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    /// Rows, columns, steps and whether there is a gate: the same as in the test on devices.
    const SHAPES: [(usize, usize, usize, bool); 28] = [
        (3, 61, 4, false),
        (3, 61, 6, false),
        (3, 61, 8, false),
        (3, 61, 10, false),
        (3, 61, 12, false),
        (3, 61, 14, false),
        (3, 61, 16, false),
        (66, 4541, 20, false),
        (66, 3645, 15, false),
        (131, 957, 16, false),
        (131, 61, 15, false),
        (131, 61, 17, false),
        (131, 61, 14, false),
        (131, 61, 16, false),
        (3, 2493, 12, true),
        (3, 61, 6, true),
        (3, 61, 8, true),
        (3, 61, 10, true),
        (3, 61, 12, true),
        (3, 61, 14, true),
        (3, 61, 16, true),
        (66, 2301, 20, true),
        (66, 1853, 15, true),
        (66, 957, 16, true),
        (131, 61, 15, true),
        (131, 61, 17, true),
        (131, 61, 14, true),
        (131, 61, 16, true),
    ];

    /// The shapes of `tiles_that_blocks_share` in `tests/cuda_vs_reference` take every kernel of shared tiles, in clusters of
    /// every size that is ever chosen.
    #[test]
    fn tests_on_devices_cover_every_cluster() {
        let kernel = |m: usize, n: &[usize], k_bytes: usize, is_gate: bool| {
            let tiling = Work { m, n, k_bytes, is_gate, multiprocessors: 132 }.tiling();
            (tiling.splits > 1).then(|| (tiling.name(is_gate), tiling.splits))
        };
        let covered: BTreeSet<_> = SHAPES
            .into_iter()
            .map(|(m, n, steps, is_gate)| kernel(m, &[n], steps * STEP_BYTES - 16, is_gate))
            .collect();
        let mut chosen = BTreeSet::new();
        for m in [2, 16, 40, 64, 65, 100, 128, 129, 200, 256] {
            for n in (1..160).map(|tiles| 64 * tiles) {
                for steps in (1..40).chain([64, 112, 224]) {
                    for is_gate in [false, true] {
                        chosen.insert(kernel(m, &[n], steps * STEP_BYTES, is_gate));
                    }
                }
            }
        }
        let missing: Vec<_> = chosen.difference(&covered).flatten().collect();
        assert!(missing.is_empty(), "{missing:?} of {chosen:?}");
    }
}
