//! Runs of a session that somebody watches: all of its runs, since nobody watching is an observer, too.

use super::{ForwardOptions, Output, Session};
use crate::batch::TokenBatch;
use crate::error::{EngineError, Result};
use crate::kv_cache::KvCache;
use crate::observer::Observer;
use crate::program::{Phase, ProgramKey};

/// A session whose next run is watched.
pub struct Observed<'s, 'o> {
    pub(super) session: &'s mut Session,
    pub(super) observer: &'o mut dyn Observer,
}

impl<'s> Observed<'s, '_> {
    /// See [`Session::forward`].
    ///
    /// # Errors
    /// As there, and those of the observer.
    pub fn forward(self, batch: &TokenBatch) -> Result<Output<'s>> {
        self.forward_with(batch, ForwardOptions::default())
    }

    /// See [`Session::forward_with`].
    ///
    /// # Errors
    /// As there, and those of the observer.
    pub fn forward_with(self, batch: &TokenBatch, options: ForwardOptions) -> Result<Output<'s>> {
        let Observed { session, observer } = self;
        session.prepare_forward(batch, options)?;
        session.run(observer)?;
        session.output()
    }

    /// See [`Session::prefill`].
    ///
    /// # Errors
    /// As there, and those of the observer.
    pub fn prefill(self, batch: &TokenBatch) -> Result<Output<'s>> {
        self.prefill_with(batch, ForwardOptions::default())
    }

    /// See [`Session::prefill_with`].
    ///
    /// # Errors
    /// As there, and those of the observer.
    pub fn prefill_with(self, batch: &TokenBatch, options: ForwardOptions) -> Result<Output<'s>> {
        let Observed { session, observer } = self;
        if batch.tokens() > session.context {
            return Err(EngineError::ContextOverflow { needed: batch.tokens(), limit: session.context });
        }
        let (lengths, batch) = batch.padded_on_the_right();
        let shape = session.cache_shape(batch.batch(), session.context).ok_or_else(no_cache)?;
        if session.cache.as_ref().is_none_or(|cache| cache.shape != shape) {
            // The old cache goes first: both need not fit.
            session.cache = None;
            let memory = session.model.allocate_cache(shape)?;
            session.cache = Some(KvCache { shape, lengths: vec![0; batch.batch()], memory });
        }
        let start = std::iter::repeat_n(0, batch.batch());
        session.inputs.fill(&session.graph, start, batch.ids(), batch.token_types(), batch.mask())?;
        // Causality hides padding on the right from every token that counts.
        session.inputs.mask.clear();
        session.prepare(ProgramKey {
            phase: Phase::Prefill,
            batch: batch.batch(),
            tokens: batch.tokens(),
            all_logits: options.all_logits,
            keep_hidden_states: options.keep_hidden_states,
        })?;
        session.run(observer)?;
        if let Some(cache) = &mut session.cache {
            cache.lengths = lengths;
        }
        session.output()
    }

    /// See [`Session::decode`].
    ///
    /// # Errors
    /// As there, and those of the observer.
    pub fn decode(self, tokens: &[u32]) -> Result<Output<'s>> {
        let Observed { session, observer } = self;
        Observed { session: &mut *session, observer }.append(tokens)?;
        session.output()
    }

    /// Decodes, and leaves the logits where they are.
    pub(super) fn append(self, tokens: &[u32]) -> Result<()> {
        let Observed { session, observer } = self;
        let cache = session.cache.as_ref().ok_or_else(no_cache)?;
        if tokens.len() != cache.lengths.len() {
            let (expected, got) = (cache.lengths.len(), tokens.len());
            return Err(EngineError::BatchShape { what: "list of new tokens", expected, got });
        }
        let longest = cache.lengths.iter().copied().max().unwrap_or(0) as usize;
        if longest + 1 > cache.shape.capacity {
            return Err(EngineError::ContextOverflow { needed: longest + 1, limit: cache.shape.capacity });
        }
        session.inputs.fill(&session.graph, cache.lengths.iter().copied(), tokens, None, None)?;
        session.prepare(ProgramKey {
            phase: Phase::Decode,
            batch: tokens.len(),
            tokens: 1,
            all_logits: false,
            keep_hidden_states: false,
        })?;
        session.run(observer)?;
        if let Some(cache) = &mut session.cache {
            for length in &mut cache.lengths {
                *length += 1;
            }
        }
        Ok(())
    }

    /// Runs the last program once more with the same inputs; the cache stays as long as it was.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before the first run, and those of the observer.
    pub fn repeat(self) -> Result<Output<'s>> {
        let Observed { session, observer } = self;
        session.run(observer)?;
        session.output()
    }
}

fn no_cache() -> EngineError {
    EngineError::Unsupported("there is no key-value cache: prefill a decoder first".to_owned())
}
