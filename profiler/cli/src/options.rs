//! Options that several commands share.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use joulewise_engine::{Format, Strategy};

use crate::numbers;

/// Which model, where and how precisely.
#[derive(Args, Clone)]
pub(crate) struct ModelOptions {
    /// Directory, `.gguf` file, `demo:<name>` or `synth:<preset>`.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// Where and how precisely a model is run.
#[derive(Args, Clone)]
pub(crate) struct RunOptions {
    /// Where to run.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// Precision of weights and activations: fp32, fp16, bf16; int8, int8-dynamic, int8-weight; fp8, fp8-weight,
    /// fp8-e5m2-weight; int4, nf4, mxfp4, nvfp4.
    #[arg(long, default_value = "fp32")]
    pub(crate) strategy: Strategy,
    /// A plan.toml that says which module gets which strategy, in the place of --strategy.
    #[arg(long, value_name = "FILE", conflicts_with = "strategy")]
    pub(crate) plan: Option<std::path::PathBuf>,
    /// A text whose lines show strategy int8 the range of the activations.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<std::path::PathBuf>,
    /// Threads of the CPU backend; all cores by default.
    #[arg(long, value_parser = numbers::threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// What keys and values of a decoder are kept in: f32, f16, or int8 with a scale per head and token; by default as
    /// the device keeps activations, f32 on the CPU.
    #[arg(long, value_name = "FORMAT", value_parser = cache_format)]
    pub(crate) kv_cache: Option<Format>,
    /// Tokens a sequence can grow to; what the model was trained for by default, at most 4096.
    #[arg(long, value_parser = context)]
    pub(crate) context: Option<usize>,
}

impl RunOptions {
    /// What reports call the precision.
    pub(crate) fn precision_name(&self) -> String {
        let plan = self.plan.as_ref().map(|path| format!("plan {}", path.display()));
        plan.unwrap_or_else(|| self.strategy.name().to_owned())
    }
}

/// Tokens of a sequence, which has at least one.
fn context(text: &str) -> Result<usize, String> {
    numbers::count(text).map(NonZeroUsize::get)
}

/// A format that `--kv-cache` knows.
fn cache_format(name: &str) -> Result<Format, String> {
    let known = [Format::F32, Format::F16, Format::Int8];
    let format = known.into_iter().find(|format| format.name() == name);
    format.ok_or_else(|| "expected f32, f16 or int8".to_owned())
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The best device here.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}
