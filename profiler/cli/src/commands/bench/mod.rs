//! `joulewise bench`: how fast is a model, or are the kernels, on a device?

mod kernels;
mod model;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::Verdict;

/// Time a model or the kernels, without looking inside.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Model(model::ModelBench),
    Kernels(kernels::KernelBench),
}

impl Bench {
    pub(crate) fn run(self) -> Result<Verdict> {
        match self.what {
            What::Model(command) => command.run(),
            What::Kernels(command) => command.run(),
        }
    }
}
