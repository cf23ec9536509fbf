//! From the command line to a session that is ready to run.

use anyhow::{Result, bail};
use joulewise_engine::{Backend, CpuBackend, Session, SessionOptions};
use joulewise_models::{LoadedModel, ModelSpec, load};
use joulewise_profiler::process;

use crate::options::{Device, RunOptions};
use crate::output;

/// A model, loaded.
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) model: LoadedModel,
}

/// Loads a model onto the device that was asked for.
///
/// # Errors
/// When the model or the device cannot be had.
pub(crate) fn open(name: &str, options: &RunOptions) -> Result<Opened> {
    let model = load(&ModelSpec::parse(name)?)?;
    let backend = backend(options)?;
    let bar = output::progress(&format!("load {name}"), model.graph.weights.len() as u64);
    let progress = |done: usize, _: usize| bar.set_position(done as u64);
    let mut session_options = SessionOptions::default();
    session_options.context = options.context;
    session_options.available_bytes =
        process::available_memory_bytes().and_then(|bytes| usize::try_from(bytes).ok());
    session_options.progress = &progress;
    let plan = options.strategy.into();
    let session =
        Session::open(backend.as_ref(), model.graph.clone(), model.weights.as_ref(), &plan, session_options)?;
    bar.finish_and_clear();
    Ok(Opened { session, model })
}

fn backend(options: &RunOptions) -> Result<Box<dyn Backend>> {
    if options.device == Device::Cuda {
        bail!("there is no CUDA backend in this version; leave --device out, or say --device cpu");
    }
    Ok(match options.threads {
        Some(threads) => Box::new(CpuBackend::new(threads.get())),
        None => Box::new(CpuBackend::with_all_cores()),
    })
}
