//! What a run is given: token ids and everything that follows from where they stand.

use crate::backend::StepInputs;
use crate::error::{EngineError, Result};
use crate::graph::{ModelGraph, PositionRule};

impl StepInputs {
    /// Fills everything in; positions continue behind `kv_start`, the tokens that each sequence has in the cache.
    ///
    /// # Errors
    /// [`EngineError::TokenOutOfRange`].
    pub(super) fn fill(
        &mut self,
        graph: &ModelGraph,
        kv_start: impl Iterator<Item = u32>,
        ids: &[u32],
        token_types: Option<&[u32]>,
        mask: Option<&[u8]>,
    ) -> Result<()> {
        let vocab_size = graph.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { id: *id, vocab_size });
        }
        replace(&mut self.kv_start, kv_start);
        let batch = self.kv_start.len();
        let tokens = ids.len() / batch;
        replace(&mut self.token_ids, ids.iter().copied());
        match token_types {
            Some(types) => replace(&mut self.token_types, types.iter().copied()),
            None => replace(&mut self.token_types, ids.iter().map(|_| 0)),
        }
        replace(&mut self.mask, mask.unwrap_or_default().iter().copied());
        replace(&mut self.first_rows, (0..batch).map(|sequence| (sequence * tokens) as u32));
        let last_visible = |sequence: usize| match mask {
            None => tokens - 1,
            Some(mask) => {
                let row = &mask[sequence * tokens..(sequence + 1) * tokens];
                row.iter().rposition(|flag| *flag != 0).unwrap_or(0)
            }
        };
        replace(
            &mut self.last_rows,
            (0..batch).map(|sequence| (sequence * tokens + last_visible(sequence)) as u32),
        );
        self.positions.clear();
        for (sequence, row) in ids.chunks_exact(tokens).enumerate() {
            match graph.position_rule {
                PositionRule::Sequential => {
                    let start = self.kv_start[sequence];
                    self.positions.extend((0..tokens as u32).map(|token| start + token));
                }
                PositionRule::AfterPadding { pad_id } => {
                    let mut position = pad_id;
                    self.positions.extend(row.iter().map(|id| {
                        position += u32::from(*id != pad_id);
                        if *id == pad_id { pad_id } else { position }
                    }));
                }
            }
        }
        Ok(())
    }
}

/// Refills a vector without giving up its memory.
fn replace<T>(target: &mut Vec<T>, values: impl Iterator<Item = T>) {
    target.clear();
    target.extend(values);
}
