//! `joulewise classify`: which class does a text belong to?

use anyhow::{Result, bail};
use clap::Args;
use joulewise_engine::{OutputKind, TokenBatch};
use serde::Serialize;

use crate::options::ModelOptions;
use crate::session::open;
use crate::{Verdict, output};

/// Classify texts.
#[derive(Args)]
pub(crate) struct Classify {
    #[command(flatten)]
    model: ModelOptions,
    /// The texts.
    #[arg(required = true)]
    texts: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Classified {
    text: String,
    label: String,
    probability: f64,
    logits: Vec<f32>,
}

impl Classify {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut opened = open(&self.model.model, &self.model.run)?;
        if opened.session.graph().output_kind != OutputKind::Classes {
            bail!("{} is not a sequence classifier", opened.model.name);
        }
        let labels = opened.model.config.labels()?;
        let mut results = Vec::new();
        for text in self.texts {
            if text.trim().is_empty() {
                bail!("text {} is empty", results.len() + 1);
            }
            let ids = opened.model.tokenizer()?.encode(&text)?;
            let logits = opened.session.forward(&TokenBatch::single(&ids)?)?.data.to_vec();
            let best = joulewise_engine::greedy(&logits) as usize;
            let total: f64 = logits.iter().map(|logit| f64::from(logit - logits[best]).exp()).sum();
            let label = labels.get(best).cloned().unwrap_or_else(|| best.to_string());
            results.push(Classified { text, label, probability: 1.0 / total, logits });
        }
        if self.json {
            output::json(&results)?;
        } else {
            let rows = results.iter().map(|result| {
                vec![
                    result.text.clone(),
                    result.label.clone(),
                    format!("{:.2} %", 100.0 * result.probability),
                ]
            });
            output::line(output::table(&["text", "label", "probability"], rows))?;
        }
        Ok(Verdict::Passed)
    }
}
