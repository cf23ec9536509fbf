//! `joulewise export`: a plan in the words of another program.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use joulewise_models::recipe::{TARGETS, Target};
use joulewise_models::{ModelSpec, load};
use joulewise_profiler::planner::plan_file::PlanFile;
use serde_json::json;

use crate::{Verdict, output};

/// Write a plan in the words of another program, which quantizes by itself.
///
/// compressed-tensors: the quantization_config of vLLM and llm-compressor; modelopt: NVIDIA's hf_quant_config.json;
/// llama-quantize: arguments of llama.cpp's program. What the other program cannot do is said on standard error.
#[derive(Args)]
pub(crate) struct Export {
    /// The model that the plan is for: directory, `.gguf` file, `demo:<name>` or `synth:<preset>`.
    model: String,
    /// A file that `joulewise plan` has written.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The other program.
    #[arg(long, value_parser = target())]
    to: &'static Target,
    /// The file to write; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON document: the text and the notes.
    #[arg(long, conflicts_with = "out")]
    json: bool,
}

fn target() -> impl TypedValueParser<Value = &'static Target> {
    let names = TARGETS.iter().map(|target| target.name);
    PossibleValuesParser::new(names)
        .map(|name| TARGETS.iter().find(|target| target.name == name).unwrap_or(&TARGETS[0]))
}

impl Export {
    pub(crate) fn run(self) -> Result<Verdict> {
        let model = load(&ModelSpec::parse(&self.model)?)?;
        let plan = PlanFile::read(&self.plan)?.precision_plan(&model.graph)?;
        let recipe = self.to.recipe(&model, &plan)?;
        if self.json {
            output::json(&json!({
                "target": self.to.name, "file_name": self.to.file_name, "text": recipe.text, "notes": recipe.notes,
            }))?;
            return Ok(Verdict::Passed);
        }
        match &self.out {
            Some(path) => {
                fs::write(path, &recipe.text).with_context(|| format!("cannot write {}", path.display()))?;
                output::line(format!("wrote {}: {}", path.display(), self.to.description))?;
            }
            None => output::piece(&recipe.text)?,
        }
        recipe.notes.iter().for_each(|note| output::note(format!("note: {note}")));
        Ok(Verdict::Passed)
    }
}
