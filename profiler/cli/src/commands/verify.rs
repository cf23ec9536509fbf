//! `joulewise verify`: does the engine compute what the reference computed?

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use joulewise_engine::{ActivationMode, Op, PrecisionPlan, Session};
use joulewise_kernels::format::Format;
use joulewise_models::golden::{Golden, Verification};

use crate::options::ModelOptions;
use crate::session::open;
use crate::{Verdict, numbers, output};

/// Compare logits, hidden states and greedy text with the reference tensors beside a model.
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    model: ModelOptions,
    /// Reference tensors; `golden.safetensors` beside the model by default.
    #[arg(long)]
    golden: Option<PathBuf>,
    /// Largest NMSE that passes; by default what the rounding of the weights' format explains.
    #[arg(long, value_parser = numbers::relative)]
    bound: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Result<Verdict> {
        let mut opened = open(&self.model.model, &self.model.run)?;
        let golden = match &self.golden {
            Some(path) => Golden::open(path)?,
            None => opened.model.golden()?.with_context(|| {
                format!("{} has no golden.safetensors; name one with --golden", opened.model.name)
            })?,
        };
        let bound = self.bound.unwrap_or_else(|| explained_nmse(&opened.session, &opened.plan));
        let bar = output::progress("verify", golden.len() as u64);
        let mut verification =
            golden.verify(&mut opened.session, bound, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        // Rounded weights and keys may choose another word where two are about as likely: shown, but no failure.
        let formats = opened.plan.weight_formats(opened.session.graph());
        if opened.session.rounds_cache() || formats.iter().any(|format| *format != Format::F32) {
            verification.passed = verification.worst_nmse <= verification.bound;
        }
        if self.json {
            output::json(&verification)?;
        } else {
            print(&opened.model.name, opened.session.device(), &verification)?;
        }
        Ok(if verification.passed { Verdict::Passed } else { Verdict::Failed })
    }
}

/// NMSE that rounding explains, at most 1: beyond, every difference is explained.
///
/// f32: a dot product over k terms is off by about `sqrt(k) 2^-24` when roundings are independent; some 50 of them
/// behind each other, k up to some thousands, stay below 3e-5, whose square is 1e-9. A narrower format adds its own
/// NMSE once per linear, that of its weights and, where they are rounded, that of its inputs, errors of different
/// linears being independent; norms and softmax pass a relative error on with a gain that stays below 10 on trained
/// models. A cache that rounds does so to the keys and to the values of each layer.
fn explained_nmse(session: &Session, plan: &PrecisionPlan) -> f64 {
    let graph = session.graph();
    let formats = plan.weight_formats(graph);
    let cache = session.cache_format().filter(|_| session.rounds_cache());
    let cache_nmse = cache.map_or(0.0, |format| format.spec().nmse_bound);
    let rounding: f64 = graph
        .steps
        .iter()
        .map(|step| match &step.op {
            Op::Linear { weight, .. } => {
                let weights = formats[weight.index()].spec().nmse_bound;
                match plan.precision(graph.modules.get(step.module)).activation {
                    ActivationMode::Float => weights,
                    // Inputs are rounded to the format of the weights.
                    ActivationMode::Dynamic | ActivationMode::Static => 2.0 * weights,
                }
            }
            Op::CacheWrite { .. } => 2.0 * cache_nmse,
            _ => 0.0,
        })
        .sum();
    (1e-9 + 10.0 * rounding).min(1.0)
}

fn print(name: &str, device: &str, verification: &Verification) -> Result<()> {
    let rows = verification.cases.iter().map(|case| {
        let worst_hidden = case.hidden_nmse.iter().copied().fold(0.0, f64::max);
        let greedy = match (case.greedy_tokens, case.greedy_match) {
            (0, _) => "-".to_owned(),
            (tokens, true) => format!("{tokens} of {tokens}"),
            (tokens, false) => format!("differs within {tokens}"),
        };
        vec![
            format!("case {}", case.case),
            format!("{:.2e}", case.logits_nmse),
            format!("{worst_hidden:.2e}"),
            greedy,
        ]
    });
    output::line(format!("{name} on {device}"))?;
    output::line(output::table(&["", "output NMSE", "worst hidden NMSE", "greedy tokens"], rows))?;
    let verdict = if verification.passed { "passed" } else { "FAILED" };
    output::line(format!(
        "{verdict}: worst NMSE {:.2e}, bound {:.0e}",
        verification.worst_nmse, verification.bound
    ))
}
