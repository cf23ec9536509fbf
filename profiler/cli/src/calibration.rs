//! Ranges of activations, for strategies with static scales.

use std::path::Path;

use anyhow::{Context, Result, bail};
use joulewise_engine::{Backend, Calibration, PrecisionPlan, Session, SessionOptions, Strategy, TokenBatch};
use joulewise_models::LoadedModel;

use crate::output;

/// Lines of the text that are run at most: ranges hardly grow any more after some thousand tokens.
const MAX_LINES: usize = 64;
/// Tokens of a line that are run at most.
const MAX_TOKENS: usize = 256;

/// Runs a model in 16 bits over lines of `text` and notes what flows into each linear.
///
/// A model without a tokenizer has random weights, so random tokens are as good as any text.
///
/// # Errors
/// When there is no text for a model that could read one, or it cannot be read.
pub(crate) fn calibrate(
    model: &LoadedModel,
    backend: &dyn Backend,
    plan: &PrecisionPlan,
    text: Option<&Path>,
) -> Result<Calibration> {
    let batches = match (text, &model.tokenizer) {
        (Some(path), _) => lines(model, path)?,
        (None, None) => scattered(model.graph.vocab_size),
        (None, Some(_)) => bail!(
            "strategy {} takes the scales of activations from a text: give it one with --calibrate FILE, or take a strategy with scales at run time such as int8-dynamic",
            plan.strategy
        ),
    };
    let plan = Strategy::Fp16.into();
    let options = SessionOptions::default();
    let mut session = Session::open(backend, model.graph.clone(), model.weights.as_ref(), &plan, options)?;
    let mut calibration = Calibration::default();
    let bar = output::progress("calibrate", batches.len() as u64);
    for ids in batches {
        let ids = &ids[..ids.len().min(session.context())];
        session.observed(&mut calibration).forward(&TokenBatch::single(ids)?)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(calibration)
}

/// Tokens of lines spread evenly over a text file.
fn lines(model: &LoadedModel, path: &Path) -> Result<Vec<Vec<u32>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        bail!("{} holds no text to calibrate on", path.display());
    }
    let tokenizer = model.tokenizer()?;
    let count = lines.len().min(MAX_LINES);
    let chosen = (0..count).map(|i| lines[i * lines.len() / count]);
    let mut batches = Vec::with_capacity(count);
    for line in chosen {
        let ids = tokenizer.encode_truncated(line, MAX_TOKENS)?;
        if !ids.is_empty() {
            batches.push(ids);
        }
    }
    if batches.is_empty() {
        bail!("{} holds no text that becomes tokens", path.display());
    }
    Ok(batches)
}

/// A few sequences of tokens from all over the vocabulary, the same every time.
fn scattered(vocab_size: usize) -> Vec<Vec<u32>> {
    // Steps by the golden ratio visit a range evenly, in no order that text would have.
    let token = |i: u64| (i * 2_654_435_761 % vocab_size as u64) as u32;
    (0..4).map(|sequence| (0..64).map(|i| token(sequence * 64 + i)).collect()).collect()
}
