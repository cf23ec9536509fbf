//! One trial of a study, in a process of its own.

use std::path::Path;

use anyhow::{Result, bail};
use joulewise_engine::{OutputKind, Strategy, TokenBatch};
use joulewise_models::{ModelError, ModelSpec, WordVectors, load};
use joulewise_profiler::meter::MeteredDevice;
use joulewise_profiler::process;
use joulewise_profiler::study::{Measured, Readout, Trial, measure};

use super::Study;
use crate::meter;
use crate::options::RunOptions;
use crate::session::open;

/// What stands before the source of a table of word vectors.
const WORDS: &str = "words:";
/// The tokenizer for models that have none, because their weights are random: what counts is how many tokens a sentence
/// has.
const STAND_IN: &str = "demo:distilbert";

/// Whether a name is that of a model or baseline.
///
/// # Errors
/// When it is not.
pub(super) fn check(model: &str) -> Result<()> {
    match model.strip_prefix(WORDS) {
        Some(source) if Path::new(source).is_file() => Ok(()),
        source => Ok(ModelSpec::parse(source.unwrap_or(model)).map(drop)?),
    }
}

impl Study {
    /// Measures one model in one strategy.
    pub(super) fn measure(&self, model: &str, strategy: Strategy) -> Result<Trial> {
        let (texts, labels): (Vec<String>, Vec<u32>) = self.sentences()?.into_iter().unzip();
        match model.strip_prefix(WORDS) {
            Some(source) => self.measure_words(model, source, strategy, &texts, &labels),
            None => self.measure_model(model, strategy, &texts, &labels),
        }
    }

    fn measure_model(
        &self,
        name: &str,
        strategy: Strategy,
        texts: &[String],
        labels: &[u32],
    ) -> Result<Trial> {
        let options = RunOptions {
            device: self.device,
            strategy,
            plan: None,
            calibrate: self.calibrate.clone(),
            threads: self.threads,
            kv_cache: None,
            context: None,
        };
        let mut opened = open(name, &options)?;
        let graph = opened.session.graph().clone();
        let readout = match graph.output_kind {
            OutputKind::Classes => Readout::Classes,
            OutputKind::Embedding => Readout::NearestClassMean,
            OutputKind::NextToken => bail!("{name} is a language model: a study compares encoders"),
        };
        let stand_in = match &opened.model.tokenizer {
            Some(_) => None,
            None => load(&ModelSpec::parse(STAND_IN)?)?.tokenizer,
        };
        let is_trained = stand_in.is_none();
        let tokenizer = match &stand_in {
            Some(tokenizer) => tokenizer,
            None => opened.model.tokenizer()?,
        };
        let batches = texts.iter().map(|text| {
            let mut ids = tokenizer.encode_truncated(text, opened.session.context())?;
            ids.iter_mut().for_each(|id| *id %= graph.vocab_size as u32);
            Ok(TokenBatch::single(&ids)?)
        });
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let session = &mut opened.session;
        let mut run = |index: usize| Ok(session.forward(&batches[index])?.data.to_vec());
        let meter = meter::start(&self.meter)?;
        let measured = measure(labels, readout, &mut run, (&meter, opened.metered), self.seconds)?;
        let (device, weight_bytes) = (opened.session.device(), opened.session.weight_bytes());
        Ok(trial(name, strategy, device, is_trained, weight_bytes, measured))
    }

    fn measure_words(
        &self,
        name: &str,
        source: &str,
        strategy: Strategy,
        texts: &[String],
        labels: &[u32],
    ) -> Result<Trial> {
        let format = strategy.precision().weight;
        let vectors = if Path::new(source).is_file() {
            WordVectors::load(Path::new(source), format)?
        } else {
            WordVectors::of_model(&load(&ModelSpec::parse(source)?)?, format)?
        };
        if texts.iter().all(|text| vectors.sentence(text).1 == 0) {
            return Err(ModelError::UnknownWord(texts.first().cloned().unwrap_or_default()).into());
        }
        let mut run = |index: usize| Ok(vectors.sentence(&texts[index]).0);
        let meter = meter::start(&self.meter)?;
        let metered = (&meter, MeteredDevice::Cpu);
        let measured = measure(labels, Readout::NearestClassMean, &mut run, metered, self.seconds)?;
        Ok(trial(name, strategy, "one core", true, vectors.size_bytes(), measured))
    }
}

fn trial(
    model: &str,
    strategy: Strategy,
    device: &str,
    is_trained: bool,
    weight_bytes: usize,
    measured: Measured,
) -> Trial {
    Trial {
        model: model.to_owned(),
        strategy: strategy.to_string(),
        device: device.to_owned(),
        is_trained,
        weight_bytes: weight_bytes as u64,
        peak_memory_bytes: process::peak_memory_bytes(),
        measured,
    }
}
