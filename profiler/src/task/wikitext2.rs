//! WikiText-2: perplexity of a language model per token of its own vocabulary (Merity et al. 2016).

use std::path::Path;

use joulewise_engine::{ForwardOptions, OutputKind, Session, TokenBatch};

use super::{Encode, Outcome, Score, Task, Workload};
use crate::error::{ProfilerError, Result};
use crate::statistics::{Interval, Summary};

pub(super) const TASK: Task = Task {
    name: "wikitext2",
    metric: "token_perplexity",
    convention: "whole text encoded once, consecutive windows of the context, every token of a window but its first \
                 scored; interval: windows as independent",
    needs: OutputKind::NextToken,
    load,
};

struct Wikitext2 {
    windows: Vec<TokenBatch>,
    threads: usize,
}

fn load(path: &Path, session: &Session, encode: &dyn Encode) -> Result<Box<dyn Workload>> {
    let text = std::fs::read_to_string(path).map_err(ProfilerError::io(path))?;
    let ids = encode.encode(&text).map_err(|source| ProfilerError::Encode { index: 0, source })?;
    // A window of one token has nothing to predict.
    let windows = ids.chunks(session.context()).filter(|window| window.len() > 1).map(TokenBatch::single);
    let windows = windows.collect::<std::result::Result<Vec<_>, _>>()?;
    if windows.is_empty() {
        let expected = "a text of at least two tokens".to_owned();
        return Err(ProfilerError::EmptyFile { path: path.to_owned(), expected });
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Box::new(Wikitext2 { windows, threads }))
}

impl Workload for Wikitext2 {
    fn batches(&self) -> usize {
        self.windows.len()
    }

    /// The values are the mean negative log-likelihood per token, in nats, and the number of scored tokens.
    fn run(&self, session: &mut Session, batch: usize) -> Result<Outcome> {
        let window = &self.windows[batch];
        let options = ForwardOptions { all_logits: true, ..Default::default() };
        // A cache that rounds is part of what is scored; one that does not would change nothing.
        let logits = if session.rounds_cache() {
            session.prefill_with(window, options)?
        } else {
            session.forward_with(window, options)?
        };
        let targets = &window.ids()[1..];
        // The logits of a window are a few million exponentials; they are shared out like the model's own work.
        let share = targets.len().div_ceil(self.threads);
        let total: f64 = std::thread::scope(|scope| {
            let parts: Vec<_> = targets
                .chunks(share)
                .zip(logits.data.chunks(share * logits.cols))
                .map(|(targets, rows)| {
                    scope.spawn(move || {
                        let rows = rows.chunks_exact(logits.cols);
                        targets
                            .iter()
                            .zip(rows)
                            .map(|(target, row)| negative_log_likelihood(row, *target))
                            .sum::<f64>()
                    })
                })
                .collect();
            parts.into_iter().map(|part| part.join().unwrap_or(f64::NAN)).sum()
        });
        let values = vec![total / targets.len() as f64, targets.len() as f64];
        Ok(Outcome { tokens: window.ids().len(), values })
    }

    fn score(&self, outcomes: &[Outcome]) -> Score {
        let means: Vec<f64> = outcomes.iter().map(|outcome| outcome.values[0]).collect();
        let tokens: Vec<f64> = outcomes.iter().map(|outcome| outcome.values[1]).collect();
        let n: f64 = tokens.iter().sum();
        let mean = means.iter().zip(&tokens).map(|(mean, tokens)| mean * tokens).sum::<f64>() / n;
        let spread = Summary::of(&means);
        let interval =
            spread.ci95.map(|half| Interval { low: (mean - half).exp(), high: (mean + half).exp() });
        Score { score: mean.exp(), interval, n: n as usize, correct: None }
    }
}

/// `-log softmax(logits)[target]` in nats.
fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Each exponential is good to 2^-24; the sum must not lose that over a large vocabulary.
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + sum.ln() - f64::from(logits[target as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_of_a_row_add_up_to_one() {
        let logits = [3.0f32, -2.0, 500.0, 499.0, 0.25];
        let total: f64 = (0..5).map(|target| (-negative_log_likelihood(&logits, target)).exp()).sum();
        // Five terms with a relative error of 2^-24 each.
        assert!((total - 1.0).abs() < 1e-6, "{total}");
        assert!((negative_log_likelihood(&[0.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
    }
}
