//! From the command line to a session that is ready to run.

use std::sync::Arc;

use anyhow::Result;
use joulewise_engine::{
    Backend, CpuBackend, CudaBackend, EngineError, PrecisionPlan, Session, SessionOptions,
};
use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::driver::CudaError;
use joulewise_models::{LoadedModel, ModelSpec, load};
use joulewise_profiler::ballast::Cache;
use joulewise_profiler::meter::MeteredDevice;
use joulewise_profiler::planner::plan_file::PlanFile;
use joulewise_profiler::{environment, process};

use crate::calibration::calibrate;
use crate::options::{Device, RunOptions};
use crate::output;

/// A model, loaded.
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) model: LoadedModel,
    /// Which module has which format.
    pub(crate) plan: PrecisionPlan,
    /// Whose joules count.
    pub(crate) metered: MeteredDevice,
}

/// Loads a model onto the device that was asked for.
///
/// # Errors
/// When the model or the device cannot be had.
pub(crate) fn open(name: &str, options: &RunOptions) -> Result<Opened> {
    let model = load(&ModelSpec::parse(name)?)?;
    place(model, options, &Chosen::new(options)?)
}

/// Puts a model onto a device.
///
/// # Errors
/// When its weights cannot be read or do not fit.
pub(crate) fn place(model: LoadedModel, options: &RunOptions, chosen: &Chosen) -> Result<Opened> {
    let name = &model.name;
    let bar = output::progress(&format!("load {name}"), model.graph.weights.len() as u64);
    let progress = |done: usize, _: usize| bar.set_position(done as u64);
    let mut session_options = SessionOptions::default();
    session_options.context = options.context;
    session_options.cache_format = options.kv_cache;
    session_options.available_bytes = chosen.available_bytes;
    session_options.progress = &progress;
    let mut plan = match &options.plan {
        Some(path) => PlanFile::read(path)?.precision_plan(&model.graph)?,
        None => PrecisionPlan::from(options.strategy),
    };
    if plan.calibration.is_none() && plan.needs_calibration(&model.graph) {
        let text = options.calibrate.as_deref();
        plan.calibration = Some(Arc::new(calibrate(&model, chosen.backend.as_ref(), &plan, text)?));
    }
    let session = Session::open(
        chosen.backend.as_ref(),
        model.graph.clone(),
        model.weights.as_ref(),
        &plan,
        session_options,
    )?;
    bar.finish_and_clear();
    Ok(Opened { session, model, plan, metered: chosen.metered })
}

/// The device that was asked for, or the best one here.
pub(crate) struct Chosen {
    backend: Box<dyn Backend>,
    /// Memory that weights may take.
    available_bytes: Option<usize>,
    /// Whose joules count.
    pub(crate) metered: MeteredDevice,
    /// Its caches.
    pub(crate) caches: Vec<Cache>,
}

impl Chosen {
    /// # Errors
    /// When CUDA was asked for and is not to be had.
    pub(crate) fn new(options: &RunOptions) -> Result<Self> {
        match options.device {
            Device::Cpu => Ok(cpu(options)),
            Device::Cuda => cuda(),
            Device::Auto => cuda().or_else(|error| {
                // A machine without a GPU is the usual case; one whose GPU cannot be used is worth a word.
                if !has_no_gpu(&error) {
                    output::note(format!("note: running on the CPU: {error}"));
                }
                Ok(cpu(options))
            }),
        }
    }
}

fn has_no_gpu(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(EngineError::Kernel(KernelError::Cuda(CudaError::NoDriver | CudaError::NoDevice { .. })))
    )
}

fn cpu(options: &RunOptions) -> Chosen {
    let backend = match options.threads {
        Some(threads) => CpuBackend::new(threads.get()),
        None => CpuBackend::with_all_cores(),
    };
    let available_bytes = process::available_memory_bytes().and_then(|bytes| usize::try_from(bytes).ok());
    let caches = environment::caches();
    Chosen { backend: Box::new(backend), available_bytes, metered: MeteredDevice::Cpu, caches }
}

/// The first GPU that the driver names.
fn cuda() -> Result<Chosen> {
    let backend = CudaBackend::new(0)?;
    let (free_bytes, _) = backend.memory_bytes()?;
    let metered = MeteredDevice::Gpu { index: 0 };
    let caches = vec![Cache { size_bytes: backend.cache_bytes() as u64, is_shared: false }];
    Ok(Chosen { backend: Box::new(backend), available_bytes: Some(free_bytes), metered, caches })
}
