//! Text generation: prefill, then one token at a time.

use crate::batch::TokenBatch;
use crate::error::Result;
use crate::sampler::Sampler;
use crate::session::Session;

/// When generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRule {
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// Any of these ends the text; it is not handed out.
    pub end_tokens: Vec<u32>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// As many tokens as were asked for.
    MaxTokens,
    /// The model ended the text.
    EndToken,
    /// The context is full.
    ContextFull,
    /// The caller had enough.
    Interrupted,
}

/// Continues one prompt, handing each new token to `on_token` as soon as it is known; `false` from there ends it.
///
/// # Errors
/// Those of [`Session::prefill`] and [`Session::decode`]. A full context is not an error but a [`StopReason`].
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    sampler: &mut Sampler,
    stop: &StopRule,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<StopReason> {
    if stop.max_tokens == 0 {
        return Ok(StopReason::MaxTokens);
    }
    let logits = session.prefill(&TokenBatch::single(prompt)?)?;
    let mut token = sampler.sample(logits.row(0));
    let mut generated = 0;
    loop {
        if stop.end_tokens.contains(&token) {
            return Ok(StopReason::EndToken);
        }
        generated += 1;
        if !on_token(token) {
            return Ok(StopReason::Interrupted);
        }
        if generated == stop.max_tokens {
            return Ok(StopReason::MaxTokens);
        }
        if session.lengths()[0] as usize == session.context() {
            return Ok(StopReason::ContextFull);
        }
        token = session.decode_next(&[token], std::slice::from_mut(sampler))?[0];
    }
}
