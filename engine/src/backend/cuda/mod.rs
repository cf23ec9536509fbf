//! The CUDA backend: a program's steps become launches, a range of steps that is run again becomes a graph.
//!
//! Everything that varies from run to run (tokens, positions, cache lengths) lies in device memory, so a graph captured
//! once serves every later run of its range. Neighbouring steps that one kernel can do are fused ([`plan`]), within the
//! range that is run: module by module, every module computes its own values and has its own time.

mod executable;
mod formats;
mod inputs;
mod memory;
mod plan;
mod sampling;
mod submit;
mod weights;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use joulewise_kernels::KernelError;
use joulewise_kernels::args::InputRounding;
use joulewise_kernels::cuda::driver::{Context, CubinCache, DeviceBuffer};
use joulewise_kernels::cuda::{CacheView, CudaKernels, DeviceMatrix, RopeTable};
use joulewise_kernels::format::Format;

use super::{Backend, BackendModel, Executable, LoadProgress};
use crate::error::{EngineError, Result};
use crate::graph::ModelGraph;
use crate::kv_cache::{CacheMemory, CacheShape};
use crate::precision::PrecisionPlan;
use crate::program::Program;
use crate::weight::{WeightId, WeightSource};
use weights::{CudaWeight, load_weights};

/// One NVIDIA GPU.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    kernels: CudaKernels,
}

impl CudaBackend {
    /// Opens a device and compiles the kernels for it, or finds them where an earlier run left them.
    ///
    /// # Errors
    /// One paragraph that says what is missing (driver, device, compiler) and how to get it.
    pub fn new(device_index: usize) -> Result<Self> {
        let load = || CudaKernels::load(&Context::new(device_index)?, &CubinCache::for_user());
        Ok(CudaBackend { kernels: load().map_err(KernelError::from)? })
    }

    /// Name of the device, e.g. `NVIDIA H100 80GB HBM3`.
    pub fn device_name(&self) -> &str {
        self.kernels.context().name()
    }

    /// Bytes of the device's second-level cache.
    pub fn cache_bytes(&self) -> usize {
        self.kernels.context().l2_bytes()
    }

    /// Free and total bytes of device memory; the free ones are what [`crate::SessionOptions`] may be told.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn memory_bytes(&self) -> Result<(usize, usize)> {
        Ok(self.kernels.context().memory_bytes().map_err(KernelError::from)?)
    }
}

impl Backend for CudaBackend {
    fn describe(&self) -> String {
        let (major, minor) = self.kernels.context().compute_capability();
        format!("cuda {}, compute capability {major}.{minor}", self.device_name())
    }

    fn load(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        positions: usize,
        progress: LoadProgress<'_>,
    ) -> Result<Arc<dyn BackendModel>> {
        let kernels = self.kernels.with_own_stream().map_err(KernelError::from)?;
        let weights = load_weights(kernels.context(), graph, source, plan, progress)?;
        let roundings = plan.input_roundings(graph)?;
        let ropes = graph.ropes.iter().map(|spec| {
            let table = spec.table(positions);
            RopeTable::new(kernels.context(), &table.cos, &table.sin, table.rotary)
        });
        let ropes = ropes.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Arc::new(CudaModel(Arc::new(Tables {
            kernels,
            weights,
            roundings,
            ropes: ropes.into(),
            cache_format: plan.strategy.cache_format(),
            positions,
            submitting: Mutex::new(()),
        }))))
    }
}

/// What all programs of one model share.
struct Tables {
    kernels: CudaKernels,
    weights: Vec<Arc<CudaWeight>>,
    /// How the inputs of each module's linear are rounded.
    roundings: Arc<[InputRounding]>,
    ropes: Arc<[RopeTable]>,
    cache_format: Format,
    /// Longest a sequence can get.
    positions: usize,
    /// Held while a program submits: what one thread captures must not pick up another's launches.
    submitting: Mutex<()>,
}

impl Tables {
    fn matrix(&self, id: WeightId) -> Result<&DeviceMatrix> {
        match &*self.weights[id.index()] {
            CudaWeight::Matrix { matrix, .. } => Ok(matrix),
            CudaWeight::Vector(_) => {
                Err(EngineError::Unsupported(format!("weight {} is not a matrix", id.0)))
            }
        }
    }

    /// A matrix whose rows are looked up.
    fn table(&self, id: WeightId) -> Result<&DeviceMatrix> {
        match &*self.weights[id.index()] {
            CudaWeight::Matrix { table: Some(table), .. } => Ok(table),
            _ => self.matrix(id),
        }
    }

    fn vector(&self, id: WeightId) -> Result<&DeviceBuffer<f32>> {
        match &*self.weights[id.index()] {
            CudaWeight::Vector(vector) => Ok(vector),
            CudaWeight::Matrix { .. } => {
                Err(EngineError::Unsupported(format!("weight {} is not a vector", id.0)))
            }
        }
    }

    fn optional_vector(&self, id: Option<WeightId>) -> Result<Option<&DeviceBuffer<f32>>> {
        id.map(|id| self.vector(id)).transpose()
    }
}

struct CudaModel(Arc<Tables>);

impl BackendModel for CudaModel {
    fn weight_bytes(&self) -> usize {
        self.0.weights.iter().map(|weight| weight.size_bytes()).sum()
    }

    fn reload(
        &self,
        graph: &Arc<ModelGraph>,
        source: &dyn WeightSource,
        plan: &PrecisionPlan,
        weights: &[WeightId],
    ) -> Result<Arc<dyn BackendModel>> {
        let Tables { kernels, weights: shared, ropes, positions, .. } = &*self.0;
        let kernels = kernels.with_own_stream().map_err(KernelError::from)?;
        let mut all = shared.clone();
        let formats = plan.weight_formats(graph);
        for id in weights {
            let index = id.index();
            let weight = CudaWeight::load(kernels.context(), graph, index, formats[index], source)?;
            all[index] = Arc::new(weight);
        }
        Ok(Arc::new(CudaModel(Arc::new(Tables {
            kernels,
            weights: all,
            roundings: plan.input_roundings(graph)?,
            ropes: ropes.clone(),
            cache_format: plan.strategy.cache_format(),
            positions: *positions,
            submitting: Mutex::new(()),
        }))))
    }

    fn cache_format(&self, wanted: Option<Format>) -> Result<Format> {
        let kept = self.0.cache_format;
        match wanted {
            Some(wanted) if wanted != kept => Err(EngineError::Unsupported(format!(
                "the key-value cache on CUDA is kept in {kept} beside weights of this precision, not in {wanted}"
            ))),
            _ => Ok(kept),
        }
    }

    fn value_formats(&self, program: &Program) -> Vec<Format> {
        formats::value_formats(program, self.0.cache_format)
    }

    fn allocate_cache(&self, shape: CacheShape) -> Result<Box<dyn CacheMemory>> {
        Ok(Box::new(CudaCache::new(self.0.kernels.context(), shape)?))
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Box<dyn Executable>> {
        Ok(Box::new(executable::CudaExecutable::new(self.0.clone(), program)?))
    }
}

/// Keys and values, `[batch, kv_heads, capacity, head_dim]` per layer.
struct CudaCache {
    /// Tells graphs apart that were captured with different caches.
    id: u64,
    shape: CacheShape,
    /// Keys and values of each layer.
    layers: Vec<(DeviceBuffer<u8>, DeviceBuffer<u8>)>,
}

impl CudaCache {
    fn new(context: &Arc<Context>, shape: CacheShape) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let half = || DeviceBuffer::zeros(context, shape.layer_bytes()).map_err(KernelError::from);
        let layers = (0..shape.layers).map(|_| Ok((half()?, half()?))).collect::<Result<Vec<_>>>()?;
        Ok(CudaCache { id: NEXT.fetch_add(1, Ordering::Relaxed), shape, layers })
    }

    fn layer(&self, layer: usize) -> CacheView<'_> {
        let (keys, values) = &self.layers[layer];
        let CacheShape { batch, kv_heads, capacity, head_dim, format, .. } = self.shape;
        CacheView { keys, values, format, batch, kv_heads, capacity, head_dim }
    }
}

impl CacheMemory for CudaCache {
    fn size_bytes(&self) -> usize {
        self.layers.iter().map(|(keys, values)| keys.size_bytes() + values.size_bytes()).sum()
    }
}

/// What a captured graph depends on besides its program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GraphKey {
    /// Stretches of steps, one behind the other.
    stretches: Vec<Range<usize>>,
    /// The cache it writes to, 0 without one.
    cache: u64,
    has_mask: bool,
}
