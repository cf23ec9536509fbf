//! `joulewise bench model`: throughput and energy of a model's phases.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use joulewise_engine::{Cost, ModuleId, Phase, Session, TokenBatch};
use joulewise_models::synthetic;
use joulewise_profiler::meter::{EnergyMeter, MeteredDevice};
use joulewise_profiler::workload::{SessionWorkload, Workload};
use serde::Serialize;
use serde_json::Value;

use crate::meter::{MeterOptions, start};
use crate::options::ModelOptions;
use crate::session::{Opened, open};
use crate::{Verdict, numbers, output};

/// Time a model's prompt and its single steps, and meter their energy.
///
/// A phase is run over and over with its inputs in place; medians of several stretches. Real generation, results read
/// back and the next token chosen on the processor, is timed once besides.
#[derive(Args)]
pub(crate) struct ModelBench {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    meter: MeterOptions,
    /// Sequences.
    #[arg(long, default_value = "1", value_parser = numbers::count)]
    batch: NonZeroUsize,
    /// Tokens of each prompt, or of each input of an encoder.
    #[arg(long, default_value = "128", value_parser = numbers::count)]
    prompt: NonZeroUsize,
    /// Tokens to generate behind it.
    #[arg(long, default_value_t = 32, value_parser = numbers::number)]
    generate: usize,
    /// Seconds that each phase is run for.
    #[arg(long, default_value_t = 2.0, value_parser = numbers::seconds)]
    seconds: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Stretches whose median counts.
const STRETCHES: usize = 5;

/// What was measured; fields that do not apply are left out.
#[derive(Debug, Default, Serialize)]
struct Figures {
    model: String,
    device: String,
    strategy: String,
    batch: usize,
    prompt: usize,
    generate: usize,
    load_s: f64,
    weight_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache: Option<&'static str>,
    /// Bytes of the cache for the prompt and what is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_per_sample_j: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill_tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_per_prefill_token_j: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_per_token_j: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generated_tokens_per_s: Option<f64>,
    /// Mean power of the last phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    power_w: Option<f64>,
    /// Where joules come from: `measured`, or worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_provenance: Option<String>,
    /// Counted compulsory traffic of the last phase over its time.
    bytes_per_s: f64,
    /// Counted operations of the phase that does most of them over its time.
    flops_per_s: f64,
    /// Of the bandwidth that a kernel which only reads reaches here.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_bandwidth: Option<f64>,
    /// Of what a large product in 16 bits reaches here.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_peak: Option<f64>,
}

/// One phase, run over and over.
struct Measured {
    seconds: f64,
    energy_j: Option<f64>,
    provenance: Option<String>,
    power_w: Option<f64>,
    cost: Cost,
}

impl ModelBench {
    pub(crate) fn run(mut self) -> Result<Verdict> {
        let (batch, prompt) = (self.batch.get(), self.prompt.get());
        if self.seconds.is_nan() || self.seconds <= 0.0 {
            bail!("--seconds has to be positive");
        }
        let begin = Instant::now();
        self.model.run.context.get_or_insert(prompt + self.generate + 2);
        let mut opened = match open(&self.model.model, &self.model.run) {
            // Encoders have no room to grow, and need none.
            Err(_) => {
                self.model.run.context = Some(prompt);
                open(&self.model.model, &self.model.run)?
            }
            Ok(opened) => opened,
        };
        let load_s = begin.elapsed().as_secs_f64();
        let meter = start(&self.meter)?;
        let graph = opened.session.graph().clone();
        let phase = if graph.cache.is_some() { Phase::Prefill } else { Phase::Forward };
        opened.session.check_room(phase, batch, prompt)?;
        let ids = synthetic::prompt(graph.vocab_size, batch * prompt);
        let input = TokenBatch::dense(ids, batch)?;
        let mut figures = Figures {
            model: self.model.model.clone(),
            device: opened.session.device().to_owned(),
            strategy: self.model.run.strategy.to_string(),
            batch,
            prompt,
            generate: self.generate,
            load_s,
            weight_bytes: opened.session.weight_bytes(),
            kv_cache: opened.session.cache_format().map(|format| format.name()),
            ..Figures::default()
        };
        let metered = opened.metered;
        let session = &mut opened.session;
        if graph.cache.is_none() {
            let phase = self.measure(SessionWorkload::forward(session, &input)?, &meter, metered)?;
            figures.samples_per_s = Some(batch as f64 / phase.seconds);
            figures.energy_per_sample_j = phase.energy_j.map(|energy| energy / batch as f64);
            figures.finish(&phase, &phase);
        } else {
            let prefill = self.measure(SessionWorkload::prefill(session, &input)?, &meter, metered)?;
            let tokens = (batch * prompt) as f64;
            figures.prefill_tokens_per_s = Some(tokens / prefill.seconds);
            figures.prefill_ms = Some(prefill.seconds * 1e3);
            figures.cache_bytes = Some(session.cache_bytes());
            figures.energy_per_prefill_token_j = prefill.energy_j.map(|energy| energy / tokens);
            if self.generate > 0 {
                let decode = self.measure(SessionWorkload::decode(session, &input)?, &meter, metered)?;
                figures.decode_tokens_per_s = Some(batch as f64 / decode.seconds);
                figures.step_ms = Some(decode.seconds * 1e3);
                figures.energy_per_token_j = decode.energy_j.map(|energy| energy / batch as f64);
                figures.finish(&decode, &prefill);
                figures.generated_tokens_per_s = Some(self.generate_greedily(session, &input)?);
            } else {
                figures.finish(&prefill, &prefill);
            }
        }
        figures.compare_with_ceilings(&opened);
        if self.json {
            output::json(&figures)?;
        } else {
            figures.print()?;
        }
        Ok(Verdict::Passed)
    }

    fn measure(
        &self,
        mut workload: SessionWorkload<'_>,
        meter: &EnergyMeter,
        device: MeteredDevice,
    ) -> Result<Measured> {
        let mut cost = Cost::default();
        for part in workload.parts() {
            cost += part.cost;
        }
        let mut replay = workload.repeat(ModuleId::ROOT)?;
        // The first runs compile, capture and fill caches.
        replay.run(3)?;
        let once_s = replay.run(1)?.max(1e-6);
        let iterations = ((self.seconds / STRETCHES as f64 / once_s).ceil() as usize).max(1);
        let sensors = meter.primary(device);
        let window = meter.begin();
        let mut times = Vec::with_capacity(STRETCHES);
        for _ in 0..STRETCHES {
            times.push(replay.run(iterations)? / iterations as f64);
        }
        let measurement = meter.end(window);
        times.sort_by(f64::total_cmp);
        let energy = (!sensors.is_empty()).then(|| measurement.energy(&sensors));
        let runs = (STRETCHES * iterations) as f64;
        let energy_j = energy.as_ref().and_then(|energy| energy.energy_j).map(|energy| energy / runs);
        Ok(Measured {
            seconds: times[STRETCHES / 2],
            energy_j,
            provenance: energy.as_ref().map(|energy| energy.provenance.to_string()),
            power_w: energy_j.map(|energy| energy * runs / measurement.duration_s),
            cost,
        })
    }

    /// Tokens per second of all sequences together.
    fn generate_greedily(&self, session: &mut Session, input: &TokenBatch) -> Result<f64> {
        let best = |output: joulewise_engine::Output<'_>| -> Vec<u32> {
            (0..output.rows).map(|row| joulewise_kernels::reference::argmax(output.row(row)) as u32).collect()
        };
        let mut tokens = best(session.prefill(input)?);
        // Twice before the clock starts: launch by launch, then captured.
        for _ in 0..2 {
            tokens = best(session.decode(&tokens)?);
        }
        let steps = self.generate.saturating_sub(2).max(1);
        session.truncate(input.tokens());
        let begin = Instant::now();
        for _ in 0..steps {
            tokens = best(session.decode(&tokens)?);
        }
        Ok((steps * input.batch()) as f64 / begin.elapsed().as_secs_f64())
    }
}

impl Figures {
    fn finish(&mut self, last: &Measured, heaviest: &Measured) {
        self.power_w = last.power_w;
        self.energy_provenance = last.provenance.clone();
        self.bytes_per_s = (last.cost.bytes_read + last.cost.bytes_written) / last.seconds;
        self.flops_per_s = heaviest.cost.flops / heaviest.seconds;
    }

    fn compare_with_ceilings(&mut self, opened: &Opened) {
        if !matches!(opened.metered, MeteredDevice::Gpu { .. }) {
            return;
        }
        // Measured on kernels of their own, behind everything else.
        if let Some((bandwidth, peak)) = super::kernels::ceilings() {
            self.share_of_bandwidth = Some(self.bytes_per_s / bandwidth);
            self.share_of_peak = Some(self.flops_per_s / peak);
        }
    }

    fn print(&self) -> Result<()> {
        let Value::Object(fields) = serde_json::to_value(self)? else { return Ok(()) };
        for (name, value) in fields {
            output::line(format!("{name:28} {}", for_people(&value)))?;
        }
        Ok(())
    }
}

/// A text without its quotes, a measured figure in four digits; counts as they are.
fn for_people(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(figure) if figure != 0.0 => {
                let decimals = (3.0 - figure.abs().log10().floor()).clamp(0.0, 12.0) as usize;
                format!("{figure:.decimals$}")
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_have_four_digits_and_texts_no_quotes() {
        let shown = [json!("f32"), json!(10461696), json!(10293.6197), json!(0.00068871386), json!(0.0)];
        let expected = ["f32", "10461696", "10294", "0.0006887", "0.0"];
        assert_eq!(shown.map(|value| for_people(&value)), expected);
    }
}
