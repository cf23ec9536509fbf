//! Kernels for NVIDIA GPUs: a driver layer, one file of Rust beside one `.cu` file per group of ops.
//!
//! [`CudaKernels`] compiles every kernel for exactly the GPU at hand when it is made (once per machine: the result is
//! cached on disk), checks the shapes of an operation, and submits it to a stream. Operations return before they are
//! done. Device memory is reached through [`DeviceBuffer`](driver::DeviceBuffer). Activations are f32, f16 or bf16, each
//! operand and result its own.

mod attention;
mod check;
mod clock;
pub mod driver;
mod linear;
mod matrix;
mod norm;
pub mod peer;
mod rope;
mod rows;
mod sampling;
pub mod source;

use std::sync::Arc;

pub use attention::{AttentionArgs, CacheView, DecodeArgs, DecodeScratch, KeyValues, RopeTable};
use driver::nvrtc::Nvrtc;
use driver::{Context, CubinCache, CudaError, Function, Module, Stream};
use linear::StreamScratch;
pub use linear::{FusedNorm, LinearArgs, LinearPart, LinearScratch, ScratchSize};
pub use matrix::{DeviceMatrix, DeviceRows};
pub use norm::{NormArgs, NormRounding};
pub use rope::{CacheWriteArgs, RopeArgs, RotateArgs};
pub use rows::{EmbedArgs, MeanPoolArgs};
use source::{SOURCES, Source};

use crate::args::ActivationKind;
use crate::format::Format;

/// Every kernel, loaded on one device, and the stream they are submitted to.
///
/// Every method checks its arguments and returns [`KernelError::Shape`](crate::KernelError::Shape) when they do not
/// fit; nothing has been submitted then. Indices that live on the device are clamped to their table there: whoever
/// uploads them checks them.
#[derive(Clone, Debug)]
pub struct CudaKernels {
    modules: Arc<[Option<Module>]>,
    stream: Arc<Stream>,
    sums: Arc<StreamScratch>,
}

impl CudaKernels {
    /// Compiles or finds, and loads, every kernel for a device.
    ///
    /// # Errors
    /// [`CudaError::NoNvrtc`] when something has to be compiled and there is no compiler; [`CudaError::Compile`].
    pub fn load(context: &Arc<Context>, cache: &CubinCache) -> driver::Result<Self> {
        let nvrtc = Nvrtc::find(Some(context.driver_version()))?;
        let arch = source::architecture(context.compute_capability());
        let sources: Vec<&Source> = SOURCES.iter().collect();
        // The files are independent, and each takes a fraction of a second on one core.
        let images = std::thread::scope(|scope| {
            let compile = |source: &'static Source| {
                let (nvrtc, arch) = (&nvrtc, arch.as_str());
                scope.spawn(move || source.is_for(arch).then(|| source.cubin(nvrtc, arch, cache)).transpose())
            };
            let threads: Vec<_> = sources.into_iter().map(compile).collect();
            let failed = |_| CudaError::Nvrtc { what: "a compiling thread", code: -1 };
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(failed)?)
                .collect::<driver::Result<Vec<_>>>()
        })?;
        let modules = images
            .into_iter()
            .map(|image| image.map(|image| Module::load(context, &image)).transpose())
            .collect::<driver::Result<Vec<_>>>()?;
        Self::on_new_stream(context, modules.into())
    }

    /// The same kernels on a stream of their own.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn with_own_stream(&self) -> driver::Result<Self> {
        Self::on_new_stream(self.context(), self.modules.clone())
    }

    fn on_new_stream(context: &Arc<Context>, modules: Arc<[Option<Module>]>) -> driver::Result<Self> {
        let sums = Arc::new(StreamScratch::new(context)?);
        Ok(Self { modules, stream: Arc::new(Stream::new(context)?), sums })
    }

    /// The stream that operations are submitted to.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The device.
    pub fn context(&self) -> &Arc<Context> {
        self.stream.context()
    }

    /// Whether tensor cores multiply this format here.
    fn has_tensor_cores_for(&self, format: Format) -> bool {
        match format {
            Format::F16 => true,
            Format::Bf16 => self.context().compute_capability() >= (8, 0),
            _ => false,
        }
    }

    fn function(&self, file: &str, name: &str) -> driver::Result<Function> {
        let index = SOURCES.iter().position(|source| source.file == file && source.has(name));
        match index.and_then(|index| self.modules[index].as_ref()) {
            Some(module) => module.function(name),
            None => Err(CudaError::Nvrtc { what: "finding a kernel file", code: -1 }),
        }
    }
}

/// As the kernels count them; 0 is no activation.
fn activation_code(kind: Option<ActivationKind>) -> usize {
    match kind {
        None => 0,
        Some(ActivationKind::GeluErf) => 1,
        Some(ActivationKind::GeluTanh) => 2,
        Some(ActivationKind::GeluSigmoid) => 3,
        Some(ActivationKind::Relu) => 4,
        Some(ActivationKind::Silu) => 5,
        Some(ActivationKind::Tanh) => 6,
    }
}

/// Type of activations as the kernels count it.
fn float_code(format: Format) -> usize {
    match format {
        Format::F16 => 1,
        Format::Bf16 => 2,
        _ => 0,
    }
}
