//! The two models that are part of the program, and texts to run them on: something to measure before anything is
//! downloaded. Origins and licences are in the NOTICE files beside the data, under `models/demo`.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::golden::Golden;
use crate::tokenizer::Tokenizer;

/// An embedded model.
#[derive(Debug)]
pub struct Demo {
    /// What follows `demo:`.
    pub name: &'static str,
    config: &'static [u8],
    weights: &'static [u8],
    tokenizer: &'static [u8],
    golden: &'static [u8],
}

/// A row of [`DEMOS`] out of a directory of `models/demo`.
macro_rules! demo {
    ($name:literal, $directory:literal) => {
        Demo {
            name: $name,
            config: include_bytes!(concat!("../demo/", $directory, "/config.json")),
            weights: include_bytes!(concat!("../demo/", $directory, "/model.safetensors")),
            tokenizer: include_bytes!(concat!("../demo/", $directory, "/tokenizer.json")),
            golden: include_bytes!(concat!("../demo/", $directory, "/golden.safetensors")),
        }
    };
}

/// Every embedded model.
pub const DEMOS: &[Demo] =
    &[demo!("distilbert", "distilbert-sst2-mini"), demo!("gpt2", "gpt2-wikitext2-mini")];

/// 64 sentences of the SST-2 development set: `sentence`, tab, `label`, under a header line.
pub const SST2_EXCERPT: &str = include_str!("../demo/data/sst2-dev-64.tsv");

/// The first four kilobytes of the WikiText-2 test text.
pub const WIKITEXT2_EXCERPT: &str = include_str!("../demo/data/wikitext-2-test-4k.txt");

impl Demo {
    /// Its configuration.
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn config(&self) -> Result<ModelConfig> {
        ModelConfig::from_json(&self.file("config.json"), self.config)
    }

    /// Its weights.
    ///
    /// # Errors
    /// As [`Demo::config`].
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::embedded(&self.file("model.safetensors"), self.weights)
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// As [`Demo::config`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_json(&self.file("tokenizer.json"), self.tokenizer)
    }

    /// What the reference implementation computes with it.
    ///
    /// # Errors
    /// As [`Demo::config`].
    pub fn golden(&self) -> Result<Golden> {
        let origin = self.file("golden.safetensors");
        Golden::read(&origin, &Checkpoint::embedded(&origin, self.golden)?)
    }

    /// What error messages call a file of it.
    fn file(&self, name: &str) -> String {
        format!("demo:{}/{name}", self.name)
    }
}
