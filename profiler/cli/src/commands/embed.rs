//! `joulewise embed`: one vector per text.

use anyhow::{Result, bail};
use clap::Args;
use joulewise_engine::{OutputKind, TokenBatch};
use serde::Serialize;

use crate::options::ModelOptions;
use crate::session::open;
use crate::{Verdict, output};

/// Turn texts into unit vectors; several are compared with each other.
#[derive(Args)]
pub(crate) struct Embed {
    #[command(flatten)]
    model: ModelOptions,
    /// The texts.
    #[arg(required = true)]
    texts: Vec<String>,
    /// Print one JSON document with the vectors.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Embedded {
    text: String,
    embedding: Vec<f32>,
}

impl Embed {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut opened = open(&self.model.model, &self.model.run)?;
        if opened.session.graph().output_kind != OutputKind::Embedding {
            bail!("{} is not an embedding model", opened.model.name);
        }
        let mut results = Vec::new();
        for text in self.texts {
            if text.trim().is_empty() {
                bail!("text {} is empty", results.len() + 1);
            }
            let ids = opened.model.tokenizer()?.encode(&text)?;
            let pooled = opened.session.forward(&TokenBatch::single(&ids)?)?.data;
            let length = pooled.iter().map(|value| value * value).sum::<f32>().sqrt();
            let embedding = pooled.iter().map(|value| value / length).collect();
            results.push(Embedded { text, embedding });
        }
        if self.json {
            output::json(&results)?;
            return Ok(Verdict::Passed);
        }
        let mut header = vec!["cosine".to_owned()];
        header.extend((1..=results.len()).map(|number| number.to_string()));
        let rows = results.iter().enumerate().map(|(index, a)| {
            let cosine = |b: &Embedded| a.embedding.iter().zip(&b.embedding).map(|(a, b)| a * b).sum::<f32>();
            let mut row = vec![format!("{} {}", index + 1, a.text)];
            row.extend(results.iter().map(|b| format!("{:.3}", cosine(b))));
            row
        });
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        output::line(output::table(&header, rows))?;
        Ok(Verdict::Passed)
    }
}
