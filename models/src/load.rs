//! From the name a user types to everything that is needed to run a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use joulewise_engine::{ModelGraph, WeightLayout, WeightSource};

use crate::checkpoint::{Checkpoint, Zeros};
use crate::config::ModelConfig;
use crate::demo::{DEMOS, Demo};
use crate::error::{ModelError, Result};
use crate::families;
use crate::gguf::Gguf;
use crate::golden::Golden;
use crate::synthetic::{PRESETS, Preset, SyntheticWeights};
use crate::tokenizer::Tokenizer;

/// Which model.
#[derive(Clone, Debug)]
pub enum ModelSpec {
    /// A directory in the layout of a Hugging Face repository.
    Directory(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// An embedded model, `demo:<name>`.
    Demo(&'static Demo),
    /// Made-up weights in a real model's shape, `synth:<preset>`.
    Synthetic(&'static Preset),
}

/// A model that is ready for a session.
pub struct LoadedModel {
    /// As the user named it.
    pub name: String,
    /// Its steps.
    pub graph: Arc<ModelGraph>,
    /// Its weights, still where they are stored.
    pub weights: Box<dyn WeightSource + Send + Sync>,
    /// Its tokenizer; [`LoadedModel::tokenizer`] explains its absence.
    pub tokenizer: Option<Tokenizer>,
    /// Its configuration.
    pub config: ModelConfig,
    /// Where it was loaded from, if from a directory.
    pub directory: Option<PathBuf>,
    /// Reference tensors that come with it.
    golden: Option<&'static Demo>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.name)
            .field("tokenizer", &self.tokenizer)
            .finish_non_exhaustive()
    }
}

impl ModelSpec {
    /// Understands a directory, a `.gguf` file, `demo:<name>` and `synth:<preset>`.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`], with everything that would have been understood.
    pub fn parse(name: &str) -> Result<Self> {
        let unknown = || {
            let demos = DEMOS.iter().map(|demo| format!("demo:{}", demo.name));
            let presets = PRESETS.iter().map(|preset| format!("synth:{}", preset.name));
            let known = demos.chain(presets).collect::<Vec<_>>().join(", ");
            ModelError::UnknownModel { name: name.to_owned(), known }
        };
        if let Some(demo) = name.strip_prefix("demo:") {
            return DEMOS.iter().find(|row| row.name == demo).map(ModelSpec::Demo).ok_or_else(unknown);
        }
        if let Some(preset) = name.strip_prefix("synth:") {
            return PRESETS
                .iter()
                .find(|row| row.name == preset)
                .map(ModelSpec::Synthetic)
                .ok_or_else(unknown);
        }
        let path = Path::new(name);
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        match path {
            _ if path.is_dir() => Ok(ModelSpec::Directory(path.to_owned())),
            _ if is_gguf && path.is_file() => Ok(ModelSpec::Gguf(path.to_owned())),
            _ => Err(unknown()),
        }
    }
}

/// Opens a model: reads its configuration and headers, checks that every tensor is there, and leaves the weights where
/// they are.
///
/// # Errors
/// One sentence about the first thing that is missing or wrong.
///
/// ```
/// # fn main() -> Result<(), joulewise_models::ModelError> {
/// use joulewise_models::{ModelSpec, load};
///
/// let model = load(&ModelSpec::parse("demo:gpt2")?)?;
/// let ids = model.tokenizer()?.encode("The film was released")?;
/// assert!(ids.iter().all(|id| (*id as usize) < model.graph.vocab_size));
/// # Ok(())
/// # }
/// ```
pub fn load(spec: &ModelSpec) -> Result<LoadedModel> {
    match spec {
        ModelSpec::Directory(directory) => {
            let config = ModelConfig::load(directory)?;
            let checkpoint = Checkpoint::open_with(directory, gptq_zeros(&config)?)?;
            let graph = families::build_for(&config, &|tensor| checkpoint.resolve(tensor).is_some())?;
            let (graph, weights) = fitted(graph, checkpoint)?;
            Ok(LoadedModel {
                name: directory.display().to_string(),
                graph: Arc::new(graph),
                weights,
                tokenizer: Tokenizer::load(directory)?,
                config,
                directory: Some(directory.clone()),
                golden: None,
            })
        }
        ModelSpec::Gguf(path) => {
            let Gguf { config, checkpoint, tokenizer } = Gguf::open(path)?;
            let graph = families::build_for(&config, &|tensor| checkpoint.resolve(tensor).is_some())?;
            let (graph, weights) = fitted(graph, checkpoint)?;
            Ok(LoadedModel {
                name: path.display().to_string(),
                graph: Arc::new(graph),
                weights,
                tokenizer,
                config,
                directory: None,
                golden: None,
            })
        }
        ModelSpec::Demo(demo) => {
            let config = demo.config()?;
            let (graph, weights) = fitted(families::build(&config)?, demo.checkpoint()?)?;
            Ok(LoadedModel {
                name: format!("demo:{}", demo.name),
                graph: Arc::new(graph),
                weights,
                tokenizer: Some(demo.tokenizer()?),
                config,
                directory: None,
                golden: Some(demo),
            })
        }
        ModelSpec::Synthetic(preset) => {
            let config = preset.config()?;
            let graph = families::build(&config)?;
            Ok(LoadedModel {
                name: format!("synth:{}", preset.name),
                weights: Box::new(SyntheticWeights::new(&graph, &config)),
                graph: Arc::new(graph),
                tokenizer: None,
                config,
                directory: None,
                golden: None,
            })
        }
    }
}

impl LoadedModel {
    /// The tokenizer, or why there is none.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`] or [`ModelError::NoTokenizer`].
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| match &self.directory {
            Some(directory) => ModelError::MissingFile {
                directory: directory.clone(),
                file: "tokenizer.json",
                advice: if directory.join("tokenizer.model").is_file() {
                    "SentencePiece models are not read; save the fast tokenizer with `save_pretrained`"
                } else {
                    "text needs `tokenizer.json`, `vocab.txt`, or `vocab.json` and `merges.txt`"
                },
            },
            None => ModelError::NoTokenizer(self.name.clone()),
        })
    }

    /// Reference tensors that come with the model.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn golden(&self) -> Result<Option<Golden>> {
        if let Some(demo) = self.golden {
            return demo.golden().map(Some);
        }
        let path = self.directory.as_ref().map(|directory| directory.join("golden.safetensors"));
        path.filter(|path| path.is_file()).map(|path| Golden::open(&path)).transpose()
    }
}

/// What the configuration of a GPTQ checkpoint says about its zero points; nothing else does.
fn gptq_zeros(config: &ModelConfig) -> Result<Zeros> {
    let quantization = config.optional_object("quantization_config")?;
    let form = match &quantization {
        Some(quantization) => quantization.optional_str("checkpoint_format")?,
        None => None,
    };
    Ok(if form == Some("gptq_v2") { Zeros::AsIs } else { Zeros::MinusOne })
}

/// A graph that takes every matrix as the checkpoint stores it, and the checkpoint, which has every tensor of the graph
/// in its shape and in a format that can be read.
fn fitted(
    mut graph: ModelGraph,
    checkpoint: Checkpoint,
) -> Result<(ModelGraph, Box<dyn WeightSource + Send + Sync>)> {
    for weight in &mut graph.weights {
        if weight.layout == WeightLayout::Transposed && checkpoint.is_always_out_by_in(&weight.name) {
            weight.layout = WeightLayout::RowMajor;
        }
        checkpoint.check(weight)?;
    }
    Ok((graph, Box::new(checkpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_answered_with_what_there_is() {
        assert!(matches!(ModelSpec::parse("demo:gpt2"), Ok(ModelSpec::Demo(_))));
        assert!(matches!(ModelSpec::parse("synth:mistral-7b"), Ok(ModelSpec::Synthetic(_))));
        assert!(matches!(ModelSpec::parse("."), Ok(ModelSpec::Directory(_))));
        for name in ["demo:bert", "synth:gpt5", "no/such/directory", ""] {
            let error = ModelSpec::parse(name).unwrap_err().to_string();
            let start = format!(
                "`{name}` is no model: expected a directory, a `.gguf` file, or one of demo:distilbert, demo:gpt2, synth:"
            );
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn a_synthetic_model_has_every_weight_but_no_tokenizer() {
        let model = load(&ModelSpec::parse("synth:qwen2.5-7b").unwrap()).unwrap();
        assert!(model.graph.weights.iter().all(|weight| model.weights.info(&weight.name).is_some()));
        let error = model.tokenizer().unwrap_err().to_string();
        assert!(error.starts_with("synth:qwen2.5-7b has no tokenizer"), "{error}");
        assert!(model.golden().unwrap().is_none());
    }

    #[test]
    fn a_directory_without_a_model_says_so() {
        let error = load(&ModelSpec::Directory("/".into())).unwrap_err().to_string();
        assert!(error.starts_with("/ has no config.json: "), "{error}");
    }
}
