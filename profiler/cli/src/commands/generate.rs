//! `joulewise generate`: continue a text.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Error, Result, bail};
use clap::Args;
use joulewise_engine::{OutputKind, Sampler, SamplingRule, StopReason, StopRule, generate};
use serde::Serialize;

use crate::options::ModelOptions;
use crate::session::open;
use crate::{Verdict, numbers, output};

/// Continue a prompt.
#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelOptions,
    /// The text to continue.
    prompt: String,
    /// New tokens at most.
    #[arg(long, short = 'n', default_value_t = 64, value_parser = numbers::number)]
    max_tokens: usize,
    /// Randomness; 0 takes the most likely token every time.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f32,
    /// Draw from this many of the most likely tokens only.
    #[arg(long, value_parser = numbers::count)]
    top_k: Option<NonZeroUsize>,
    /// Draw from the most likely tokens that together have this probability.
    #[arg(long, value_parser = probability)]
    top_p: Option<f32>,
    /// Begin of the random stream.
    #[arg(long, default_value_t = 0, value_parser = numbers::seed)]
    seed: u64,
    /// Print one JSON document at the end instead of the text as it comes.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Generated {
    prompt: String,
    text: String,
    token_ids: Vec<u32>,
    stop: &'static str,
    prompt_tokens: usize,
    duration_s: f64,
    tokens_per_s: f64,
}

fn temperature(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a number from 0 on".to_owned())
}

fn probability(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "expected a number above 0, at most 1".to_owned())
}

impl Generate {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut opened = open(&self.model.model, &self.model.run)?;
        if opened.session.graph().output_kind != OutputKind::NextToken {
            bail!("{} is not a language model", opened.model.name);
        }
        let prompt_ids = opened.model.tokenizer()?.encode(&self.prompt)?;
        if prompt_ids.is_empty() {
            bail!("the prompt is empty");
        }
        let rule = SamplingRule {
            temperature: self.temperature,
            top_k: self.top_k.map(NonZeroUsize::get),
            top_p: self.top_p,
        };
        let mut sampler = Sampler::new(rule, self.seed);
        let stop = StopRule { max_tokens: self.max_tokens, end_tokens: opened.model.config.eos_token_ids() };
        let tokenizer = opened.model.tokenizer()?;
        let mut token_ids = Vec::new();
        let mut stream = tokenizer.stream(&prompt_ids);
        let mut failed = None;
        let start = Instant::now();
        let reason = generate(&mut opened.session, &prompt_ids, &mut sampler, &stop, |token| {
            token_ids.push(token);
            if self.json {
                return true;
            }
            // The prompt is shown once it has gone through the model, not before an error about it.
            let prompt = if token_ids.len() == 1 { output::piece(&self.prompt) } else { Ok(()) };
            let shown = prompt.and_then(|()| stream.push(token).map_err(Error::from));
            failed = shown.and_then(|text| output::piece(&text.unwrap_or_default())).err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let duration_s = start.elapsed().as_secs_f64();
        let stop = match reason {
            StopReason::MaxTokens => "max_tokens",
            StopReason::EndToken => "end_token",
            StopReason::ContextFull => "context_full",
            StopReason::Interrupted => "interrupted",
        };
        let tokens_per_s = token_ids.len() as f64 / duration_s;
        if self.json {
            let text = tokenizer.decode(&token_ids)?;
            let prompt_tokens = prompt_ids.len();
            let prompt = self.prompt;
            output::json(&Generated {
                prompt,
                text,
                token_ids,
                stop,
                prompt_tokens,
                duration_s,
                tokens_per_s,
            })?;
        } else {
            output::line("")?;
            let tokens = token_ids.len();
            output::note(format!(
                "{tokens} tokens in {duration_s:.2} s, {tokens_per_s:.1} tokens/s, stop: {stop}"
            ));
        }
        Ok(Verdict::Passed)
    }
}
