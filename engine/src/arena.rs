//! Which values share memory.
//!
//! Values live from the step that writes them to the last step that reads them; values whose lives do not overlap may
//! share a slot. A step's output never gets a slot that one of its inputs still holds, and lowering lets what flows
//! into a module live until the module's end, so that a module can be run again and find its inputs as they were.

use std::ops::Range;

/// Slot of each value and the size of each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Slot of each value; `None` for values that no step of the program writes.
    pub slots: Vec<Option<u32>>,
    /// Elements of each slot.
    pub sizes: Vec<usize>,
}

/// Life of a value: from the step that writes it to the last one that reads it, both included.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// First and last step.
    pub(crate) steps: Range<usize>,
    /// Elements.
    pub(crate) size: usize,
}

impl Arena {
    /// Assigns slots greedily in program order: the free slot that fits best, else the largest, grown.
    pub(crate) fn plan(lives: &[Option<Life>]) -> Arena {
        let mut order: Vec<(usize, &Life)> = lives
            .iter()
            .enumerate()
            .filter_map(|(value, life)| life.as_ref().map(|life| (value, life)))
            .collect();
        order.sort_by_key(|(_, life)| life.steps.start);
        let mut arena = Arena { slots: vec![None; lives.len()], sizes: Vec::new() };
        // Last step during which each slot is held.
        let mut held_until: Vec<usize> = Vec::new();
        for (value, life) in order {
            let free = (0..arena.sizes.len()).filter(|slot| held_until[*slot] < life.steps.start);
            let best = free.min_by_key(|slot| {
                let size = arena.sizes[*slot];
                // Fitting slots first, tightest first; then the largest of those that must grow.
                if size >= life.size { (0, size) } else { (1, usize::MAX - size) }
            });
            let slot = best.unwrap_or_else(|| {
                arena.sizes.push(0);
                held_until.push(0);
                arena.sizes.len() - 1
            });
            arena.sizes[slot] = arena.sizes[slot].max(life.size);
            held_until[slot] = life.steps.end;
            arena.slots[value] = Some(slot as u32);
        }
        arena
    }

    /// Elements of all slots.
    pub fn size(&self) -> usize {
        self.sizes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// In random programs no two values that live at the same time share a slot, and every value fits its slot.
    #[test]
    fn lives_that_overlap_never_share() {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(7);
        for _ in 0..200 {
            let steps = rng.random_range(1..60);
            let lives: Vec<Option<Life>> = (0..steps)
                .map(|start| {
                    let end = rng.random_range(start..(start + 8).min(steps).max(start + 1));
                    Some(Life { steps: start..end, size: rng.random_range(1..100) })
                })
                .collect();
            let arena = Arena::plan(&lives);
            for (i, a) in lives.iter().flatten().enumerate() {
                assert!(arena.sizes[arena.slots[i].unwrap() as usize] >= a.size);
                for (j, b) in lives.iter().flatten().enumerate().skip(i + 1) {
                    let overlap = a.steps.start <= b.steps.end && b.steps.start <= a.steps.end;
                    assert!(!overlap || arena.slots[i] != arena.slots[j], "values {i} and {j}");
                }
            }
            assert!(arena.size() <= lives.iter().flatten().map(|life| life.size).sum());
        }
    }
}
