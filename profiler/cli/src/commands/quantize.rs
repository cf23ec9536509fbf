//! `joulewise quantize`: write a model with quantized weights.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use joulewise_engine::{PrecisionPlan, Strategy};
use joulewise_models::{Exported, ModelSpec, export, load};
use joulewise_profiler::planner::plan_file::PlanFile;
use joulewise_profiler::report::quantity::si;
use serde::Serialize;

use crate::{Verdict, output};

/// Write a model with quantized weights, as compressed-tensors safetensors with configuration and tokenizer.
///
/// The directory can be named as MODEL; weights that a strategy asks for in the format they are stored in are used bit
/// by bit.
#[derive(Args)]
pub(crate) struct Quantize {
    /// Directory, `.gguf` file, `demo:<name>` or `synth:<preset>`.
    model: String,
    /// Formats of the weights: int8, fp8, int4, mxfp4, nvfp4, ...
    #[arg(long, required_unless_present = "plan")]
    strategy: Option<Strategy>,
    /// Formats layer by layer, from a file that `joulewise plan` has written.
    #[arg(long, value_name = "FILE", conflicts_with = "strategy")]
    plan: Option<PathBuf>,
    /// The directory to write, empty or not there yet.
    #[arg(long)]
    out: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    out: PathBuf,
    size_bytes: u64,
    formats: Vec<FormatRow>,
    /// Matrices that only this program reads.
    ragged: Vec<String>,
}

#[derive(Serialize)]
struct FormatRow {
    format: &'static str,
    matrices: usize,
    elements: usize,
}

impl Quantize {
    pub(crate) fn run(self) -> Result<Verdict> {
        let model = load(&ModelSpec::parse(&self.model)?)?;
        let plan = match (&self.plan, self.strategy) {
            (Some(path), _) => PlanFile::read(path)?.precision_plan(&model.graph)?,
            (None, strategy) => PrecisionPlan::from(strategy.unwrap_or(Strategy::Fp32)),
        };
        let bar = output::progress("quantize", model.graph.weights.len() as u64);
        let exported = export(&model, &plan, &self.out, |done, _| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let Exported { size_bytes, formats, ragged } = exported;
        let formats = formats.into_iter().map(|(format, matrices, elements)| FormatRow {
            format: format.name(),
            matrices,
            elements,
        });
        let report =
            Report { model: model.name, out: self.out, size_bytes, formats: formats.collect(), ragged };
        if self.json {
            output::json(&report)?;
        } else {
            report.print()?;
        }
        Ok(Verdict::Passed)
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        let rows = self.formats.iter().map(|row| {
            vec![
                row.format.to_owned(),
                row.matrices.to_string(),
                format!("{:.2} M", row.elements as f64 / 1e6),
            ]
        });
        output::line(output::table(&["format", "matrices", "weights"], rows))?;
        let (name, out) = (&self.model, self.out.display());
        output::line(format!("{name} written to {out}, {}", si(self.size_bytes as f64, "B")))?;
        if let Some(first) = self.ragged.first() {
            output::note(format!(
                "note: {} matrices, {first} first, end within a block; other readers may refuse them",
                self.ragged.len()
            ));
        }
        Ok(())
    }
}
