//! Token ids as the engine takes them.

use std::borrow::Cow;

use crate::error::{EngineError, Result};

/// Sequences of one common length, padding masked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    batch: usize,
    tokens: usize,
    mask: Option<Vec<u8>>,
    token_types: Option<Vec<u32>>,
}

impl TokenBatch {
    /// One sequence.
    ///
    /// # Errors
    /// [`EngineError::EmptyInput`].
    pub fn single(ids: &[u32]) -> Result<Self> {
        Self::dense(ids.to_vec(), 1)
    }

    /// `batch` sequences of one length, `ids [batch, tokens]`.
    ///
    /// # Errors
    /// [`EngineError::EmptyInput`], or [`EngineError::BatchShape`] when the ids do not divide evenly.
    pub fn dense(ids: Vec<u32>, batch: usize) -> Result<Self> {
        if ids.is_empty() || batch == 0 {
            return Err(EngineError::EmptyInput);
        }
        let tokens = ids.len() / batch;
        if tokens * batch != ids.len() {
            let (expected, got) = ((tokens + 1) * batch, ids.len());
            return Err(EngineError::BatchShape { what: "list of token ids", expected, got });
        }
        Ok(TokenBatch { ids, batch, tokens, mask: None, token_types: None })
    }

    /// Sequences of different lengths, filled up on the right with `pad_id` and masked.
    ///
    /// # Errors
    /// [`EngineError::EmptyInput`] when there is no sequence, or one without tokens.
    pub fn padded<S: AsRef<[u32]>>(sequences: &[S], pad_id: u32) -> Result<Self> {
        let tokens = sequences.iter().map(|sequence| sequence.as_ref().len()).max().unwrap_or(0);
        if sequences.iter().any(|sequence| sequence.as_ref().is_empty()) || tokens == 0 {
            return Err(EngineError::EmptyInput);
        }
        let mut ids = Vec::with_capacity(sequences.len() * tokens);
        let mut mask = Vec::with_capacity(sequences.len() * tokens);
        for sequence in sequences {
            let sequence = sequence.as_ref();
            ids.extend_from_slice(sequence);
            ids.extend(std::iter::repeat_n(pad_id, tokens - sequence.len()));
            mask.extend((0..tokens).map(|token| u8::from(token < sequence.len())));
        }
        Self::dense(ids, sequences.len())?.with_mask(mask)
    }

    /// Hides tokens: `mask [batch, tokens]`, non-zero = visible.
    ///
    /// # Errors
    /// [`EngineError::BatchShape`] on a wrong length, [`EngineError::EmptyInput`] when a sequence has no visible token.
    pub fn with_mask(mut self, mask: Vec<u8>) -> Result<Self> {
        if mask.len() != self.ids.len() {
            return Err(EngineError::BatchShape { what: "mask", expected: self.ids.len(), got: mask.len() });
        }
        if mask.chunks_exact(self.tokens).any(|row| row.iter().all(|flag| *flag == 0)) {
            return Err(EngineError::EmptyInput);
        }
        // A mask that hides nothing is no mask; attention is faster without.
        self.mask = mask.contains(&0).then_some(mask);
        Ok(self)
    }

    /// Segments of BERT's sentence pairs: `token_types [batch, tokens]`.
    ///
    /// # Errors
    /// [`EngineError::BatchShape`] on a wrong length.
    pub fn with_token_types(mut self, token_types: Vec<u32>) -> Result<Self> {
        if token_types.len() != self.ids.len() {
            let (expected, got) = (self.ids.len(), token_types.len());
            return Err(EngineError::BatchShape { what: "list of token types", expected, got });
        }
        self.token_types = Some(token_types);
        Ok(self)
    }

    /// Ids `[batch, tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens per sequence, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Which tokens are visible `[batch, tokens]`; `None` when all are.
    pub fn mask(&self) -> Option<&[u8]> {
        self.mask.as_deref()
    }

    /// Segments `[batch, tokens]`; `None` when all are zero.
    pub fn token_types(&self) -> Option<&[u32]> {
        self.token_types.as_deref()
    }

    /// Tokens that are not padding.
    pub fn visible_tokens(&self) -> usize {
        self.mask.as_ref().map_or(self.ids.len(), |mask| mask.iter().filter(|flag| **flag != 0).count())
    }

    /// Visible tokens of each sequence, and the batch with all padding moved to the right.
    ///
    /// What a sequence's tokens compute does not change: their order stays, and positions count visible tokens.
    pub(crate) fn padded_on_the_right(&self) -> (Vec<u32>, Cow<'_, TokenBatch>) {
        let Some(mask) = &self.mask else {
            return (vec![self.tokens as u32; self.batch], Cow::Borrowed(self));
        };
        let rows = mask.chunks_exact(self.tokens);
        let lengths = rows.clone().map(|row| row.iter().filter(|flag| **flag != 0).count() as u32).collect();
        if rows.clone().all(|row| row.is_sorted_by(|a, b| *a != 0 || *b == 0)) {
            return (lengths, Cow::Borrowed(self));
        }
        let mut moved = self.clone();
        for (row, flags) in rows.enumerate() {
            // A stable sort by visibility: visible tokens first, in their order.
            let mut order: Vec<usize> = (0..self.tokens).collect();
            order.sort_by_key(|token| flags[*token] == 0);
            for (to, from) in order.into_iter().enumerate() {
                let (to, from) = (row * self.tokens + to, row * self.tokens + from);
                moved.ids[to] = self.ids[from];
                if let (Some(moved), Some(mask)) = (&mut moved.mask, &self.mask) {
                    moved[to] = mask[from];
                }
                if let (Some(moved), Some(types)) = (&mut moved.token_types, &self.token_types) {
                    moved[to] = types[from];
                }
            }
        }
        (lengths, Cow::Owned(moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_sequences_are_padded_and_masked() {
        let batch = TokenBatch::padded(&[vec![5, 6, 7], vec![8]], 0).unwrap();
        assert_eq!(batch.ids(), [5, 6, 7, 8, 0, 0]);
        assert_eq!(batch.mask(), Some([1, 1, 1, 1, 0, 0].as_slice()));
        assert_eq!((batch.visible_tokens(), batch.padded_on_the_right().0), (4, vec![3, 1]));
    }

    #[test]
    fn empty_and_uneven_batches_are_refused() {
        assert!(matches!(TokenBatch::single(&[]), Err(EngineError::EmptyInput)));
        assert!(matches!(TokenBatch::padded::<Vec<u32>>(&[], 0), Err(EngineError::EmptyInput)));
        assert!(matches!(TokenBatch::dense(vec![1, 2, 3], 2), Err(EngineError::BatchShape { .. })));
    }

    #[test]
    fn padding_moves_to_the_right_and_tokens_keep_their_order() {
        let left =
            TokenBatch::dense(vec![0, 7, 8, 4, 0, 5], 2).unwrap().with_mask(vec![0, 1, 1, 1, 0, 1]).unwrap();
        let (lengths, moved) = left.padded_on_the_right();
        assert_eq!((lengths, moved.ids()), (vec![2, 2], [7, 8, 0, 4, 5, 0].as_slice()));
        assert_eq!(moved.mask(), Some([1, 1, 0, 1, 1, 0].as_slice()));
    }
}
