//! Weights on the device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use joulewise_kernels::KernelError;
use joulewise_kernels::cuda::DeviceMatrix;
use joulewise_kernels::cuda::driver::{Context, DeviceBuffer};
use joulewise_kernels::format::{EncodedMatrix, Format};

use crate::backend::LoadProgress;
use crate::error::Result;
use crate::graph::ModelGraph;
use crate::op::Op;
use crate::precision::PrecisionPlan;
use crate::weight::{WeightReader, WeightShape, WeightSource, WeightSpec};

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

/// Allocates all weights, then reads, rounds and uploads them on as many threads as there are: rounding is bound by cores,
/// not by the bus.
///
/// What they take is known to be there before the first is read. And each lies where it lay in the last process, whatever
/// thread is first to have read one: where weights lie makes 1 % of a program's time, which would otherwise be another
/// each time that the same model is loaded.
pub(super) fn load_weights(
    context: &Arc<Context>,
    graph: &ModelGraph,
    source: &dyn WeightSource,
    plan: &PrecisionPlan,
    progress: LoadProgress<'_>,
) -> Result<Vec<Arc<CudaWeight>>> {
    let formats = plan.weight_formats(graph);
    let weights = (0..graph.weights.len())
        .map(|index| CudaWeight::allocate(context, graph, index, formats[index], source))
        .collect::<Result<Vec<_>>>()?;
    let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((weight, spec)) = weights.get(index).zip(graph.weights.get(index)) else { return };
            if let Err(error) = weight.fill(spec, source) {
                // The others find nothing left to do.
                next.store(weights.len(), Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
                return;
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, weights.len());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(weights.into_iter().map(Arc::new).collect()),
    }
}

impl CudaWeight {
    /// Memory for weight `index`, zero until it is filled.
    fn allocate(
        context: &Arc<Context>,
        graph: &ModelGraph,
        index: usize,
        format: Format,
        source: &dyn WeightSource,
    ) -> Result<CudaWeight> {
        let spec = &graph.weights[index];
        match spec.shape {
            WeightShape::Matrix { n, k } => {
                let block_len = spec.block_len(source, format, k);
                let matrix = DeviceMatrix::with_blocks(context, format, n, k, block_len)?;
                let is_table = graph
                    .steps
                    .iter()
                    .any(|step| matches!(step.op, Op::Embed { table, .. } if table.index() == index));
                let table = (is_table && !format.is_float())
                    .then(|| DeviceMatrix::zeros(context, Format::F16, n, k))
                    .transpose()?;
                Ok(CudaWeight::Matrix { matrix, table })
            }
            WeightShape::Vector { n } => {
                Ok(CudaWeight::Vector(DeviceBuffer::zeros(context, n).map_err(KernelError::from)?))
            }
        }
    }

    /// Reads, rounds and uploads it.
    fn fill(&self, spec: &WeightSpec, source: &dyn WeightSource) -> Result<()> {
        let mut reader = WeightReader::open(source, spec)?;
        let (matrix, table) = match self {
            CudaWeight::Matrix { matrix, table } => (matrix, table),
            CudaWeight::Vector(vector) => {
                let mut values = vec![0.0; vector.len()];
                reader.read_rows(0..vector.len(), &mut values)?;
                return Ok(vector.write(0, &values).map_err(KernelError::from)?);
            }
        };
        let (format, (n, k)) = (matrix.format(), matrix.shape());
        if let Some(stored) = reader.encoded(format)? {
            matrix.write_rows(0, &stored)?;
            if let Some(table) = table {
                let mut values = vec![0.0; n * k];
                stored.decode(&mut values)?;
                table.write_rows(0, &Format::F16.encode(&values, n, k)?)?;
            }
            return Ok(());
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
            if let Some(table) = table {
                encoded.decode(values)?;
                table.write_rows(first, &Format::F16.encode(values, last - first, k)?)?;
            }
        }
        Ok(())
    }

    /// Weight `index`, read and uploaded.
    pub(super) fn load(
        context: &Arc<Context>,
        graph: &ModelGraph,
        index: usize,
        format: Format,
        source: &dyn WeightSource,
    ) -> Result<CudaWeight> {
        let weight = CudaWeight::allocate(context, graph, index, format, source)?;
        weight.fill(&graph.weights[index], source)?;
        Ok(weight)
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
