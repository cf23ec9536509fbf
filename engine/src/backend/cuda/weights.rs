//! Weights on the device.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::DeviceMatrix;
use joulewise_kernels::cuda::driver::{Context, DeviceBuffer};
use joulewise_kernels::format::{EncodedMatrix, Format};

use crate::backend::LoadProgress;
use crate::error::{EngineError, Result};
use crate::graph::ModelGraph;
use crate::op::Op;
use crate::precision::PrecisionPlan;
use crate::weight::{WeightReader, WeightShape, WeightSource};

pub(super) enum CudaWeight {
    Matrix {
        matrix: DeviceMatrix,
        /// The same in f16 where rows of it are looked up, too, and its own format has no kernel for that.
        table: Option<DeviceMatrix>,
    },
    Vector(DeviceBuffer<f32>),
}

/// Elements that are read, rounded and uploaded at once.
const UPLOAD_ELEMENTS: usize = 1 << 22;

/// Reads, rounds and uploads all weights on as many threads as there are: rounding is bound by cores, not by the bus.
pub(super) fn load_weights(
    context: &Arc<Context>,
    graph: &ModelGraph,
    source: &dyn WeightSource,
    plan: &PrecisionPlan,
    progress: LoadProgress<'_>,
) -> Result<Vec<Arc<CudaWeight>>> {
    let formats = plan.weight_formats(graph);
    let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let loaded: Vec<Mutex<Option<Result<CudaWeight>>>> =
        graph.weights.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= graph.weights.len() {
                return;
            }
            let weight = CudaWeight::load(context, graph, index, formats[index], source);
            failed.fetch_or(weight.is_err(), Ordering::Relaxed);
            *loaded[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(weight);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, graph.weights.len());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut weights = Vec::with_capacity(loaded.len());
    let mut missing = None;
    for (slot, spec) in loaded.into_iter().zip(&graph.weights) {
        match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(weight) => weights.push(Arc::new(weight?)),
            // Left out because another one failed, whose error is the one to report.
            None => missing = missing.or(Some(&spec.name)),
        }
    }
    match missing {
        Some(name) => Err(EngineError::MissingTensor(name.clone())),
        None => Ok(weights),
    }
}

impl CudaWeight {
    pub(super) fn load(
        context: &Arc<Context>,
        graph: &ModelGraph,
        index: usize,
        format: Format,
        source: &dyn WeightSource,
    ) -> Result<CudaWeight> {
        let spec = &graph.weights[index];
        let mut reader = WeightReader::open(source, spec)?;
        match spec.shape {
            WeightShape::Matrix { n, k } => {
                let stored = reader.encoded(format)?;
                let block_len = stored.as_ref().map_or(format.spec().block_len(k), |stored| stored.block_len);
                let matrix = DeviceMatrix::with_blocks(context, format, n, k, block_len)?;
                let is_table = graph
                    .steps
                    .iter()
                    .any(|step| matches!(step.op, Op::Embed { table, .. } if table.index() == index));
                let table = (is_table && !format.is_float())
                    .then(|| DeviceMatrix::zeros(context, Format::F16, n, k))
                    .transpose()?;
                if let Some(stored) = &stored {
                    matrix.write_rows(0, stored)?;
                    if let Some(table) = &table {
                        let mut values = vec![0.0; n * k];
                        stored.decode(&mut values)?;
                        table.write_rows(0, &Format::F16.encode(&values, n, k)?)?;
                    }
                    return Ok(CudaWeight::Matrix { matrix, table });
                }
                let rows = (UPLOAD_ELEMENTS / k.max(1)).clamp(1, n.max(1));
                let mut values = vec![0.0; rows * k];
                let mut amax = 0.0f32;
                if format.has_tensor_scale() {
                    for first in (0..n).step_by(rows) {
                        let values = &mut values[..(n.min(first + rows) - first) * k];
                        reader.read_rows(first..n.min(first + rows), values)?;
                        let magnitudes = values.iter().map(|value| value.abs());
                        amax = magnitudes.filter(|value| value.is_finite()).fold(amax, f32::max);
                    }
                }
                for first in (0..n).step_by(rows) {
                    let last = n.min(first + rows);
                    let values = &mut values[..(last - first) * k];
                    reader.read_rows(first..last, values)?;
                    let mut encoded = EncodedMatrix::zeroed(format, last - first, k, amax);
                    encoded.encode_rows(0, values)?;
                    matrix.write_rows(first, &encoded)?;
                    if let Some(table) = &table {
                        encoded.decode(values)?;
                        table.write_rows(first, &Format::F16.encode(values, last - first, k)?)?;
                    }
                }
                Ok(CudaWeight::Matrix { matrix, table })
            }
            WeightShape::Vector { n } => {
                let mut values = vec![0.0; n];
                reader.read_rows(0..n, &mut values)?;
                let vector = DeviceBuffer::from_slice(context, &values).map_err(KernelError::from)?;
                Ok(CudaWeight::Vector(vector))
            }
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        match self {
            CudaWeight::Matrix { matrix, table } => {
                matrix.size_bytes() + table.as_ref().map_or(0, DeviceMatrix::size_bytes)
            }
            CudaWeight::Vector(vector) => vector.size_bytes(),
        }
    }
}
