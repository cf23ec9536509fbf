//! `joulewise bench kernels`: every product kernel over the shapes of real models, beside the vendor's library.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use joulewise_kernels::args::{InputRounding, MatMul, Rows, RowsMut};
use joulewise_kernels::cpu::{CpuKernels, ThreadPool};
use joulewise_kernels::cuda::driver::{Context, CubinCache, DeviceBuffer, Event, Stream};
use joulewise_kernels::cuda::peer::CublasLt;
use joulewise_kernels::cuda::{CudaKernels, DeviceMatrix, DeviceRows, LinearArgs, LinearPart, LinearScratch};
use joulewise_kernels::format::{EncodedMatrix, Format};
use joulewise_models::synthetic;
use serde::Serialize;

use crate::options::Device;
use crate::{Verdict, output};

/// Time every matrix product kernel, weights rotating beyond the caches, and the same shape in cuBLASLt if it is there.
#[derive(Args)]
pub(crate) struct KernelBench {
    /// Where to run.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Only rows whose kernel's name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One kernel and shape.
#[derive(Debug, Serialize)]
struct Row {
    kernel: String,
    m: usize,
    n: usize,
    k: usize,
    time_us: f64,
    tflops: f64,
    /// Weights read per second.
    weight_tb_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_bandwidth: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cublaslt_time_us: Option<f64>,
    /// The library's time over this kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Table {
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_tb_per_s: Option<f64>,
    rows: Vec<Row>,
}

/// `[n, k]` of Mistral-7B's products.
const LAYERS: [(usize, usize); 4] = [(4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336)];
const FEW_ROWS: [usize; 5] = [8, 16, 32, 64, 128];
/// Rows that are made up; matrices repeat them.
const BLOCK_ROWS: usize = 256;
/// Weights that are read in turns, in all: twice what the largest second-level caches hold.
const ROTATED_BYTES: usize = 256 << 20;

impl KernelBench {
    pub(crate) fn run(self) -> Result<Verdict> {
        let table = match self.device {
            Device::Cpu => self.on_cpu()?,
            Device::Cuda => self.on_cuda(&Context::new(0)?)?,
            Device::Auto => match Context::new(0) {
                Ok(context) => self.on_cuda(&context)?,
                Err(_) => self.on_cpu()?,
            },
        };
        if let Some(only) = self.only.as_ref().filter(|_| table.rows.is_empty()) {
            bail!("--only {only}: no kernel's name contains it");
        }
        if self.json {
            output::json(&table)?;
            return Ok(Verdict::Passed);
        }
        output::line(&table.device)?;
        if let Some(bandwidth) = table.read_tb_per_s {
            output::line(format!("read bandwidth {bandwidth:.2} TB/s"))?;
        }
        output::line(
            "kernel                        m     n     k       µs   TFLOP/s  weights TB/s  share  cuBLASLt µs  ratio",
        )?;
        for row in &table.rows {
            let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
            output::line(format!(
                "{:24} {:6} {:5} {:5} {:8.2} {:9.2} {:13.3} {:>6} {:>12} {:>6}",
                row.kernel,
                row.m,
                row.n,
                row.k,
                row.time_us,
                row.tflops,
                row.weight_tb_per_s,
                optional(row.share_of_bandwidth),
                optional(row.cublaslt_time_us),
                optional(row.ratio),
            ))?;
        }
        Ok(Verdict::Passed)
    }

    fn wants(&self, kernel: &str) -> bool {
        self.only.as_ref().is_none_or(|only| kernel.contains(only.as_str()))
    }

    fn on_cuda(&self, context: &Arc<Context>) -> Result<Table> {
        let kernels = CudaKernels::load(context, &CubinCache::for_user())?;
        let bandwidth = read_bandwidth(&kernels)?;
        let gpu = Gpu { peer: CublasLt::find(kernels.stream()).ok(), kernels };
        let mut rows = Vec::new();
        let eight_bits = |format| matches!(format, Format::Int8 | Format::Fp8E4m3);
        let mut cases = Vec::new();
        for format in [Format::F16, Format::Bf16, Format::Int8, Format::Fp8E4m3] {
            let rounding =
                if eight_bits(format) { InputRounding::Static { scale: 0.02 } } else { InputRounding::None };
            for (m, n, k) in [(8192, 8192, 8192), (4096, 4096, 4096)] {
                cases.push((format, rounding, m, n, k));
            }
            for (n, k) in LAYERS {
                cases.push((format, rounding, 2048, n, k));
                for m in FEW_ROWS {
                    cases.push((format, rounding, m, n, k));
                }
            }
        }
        for format in Format::ALL.iter().copied().filter(|format| *format != Format::F32) {
            for (n, k) in LAYERS {
                cases.push((format, InputRounding::None, 1, n, k));
                if !format.is_float() {
                    cases.push((format, InputRounding::None, 8, n, k));
                    cases.push((format, InputRounding::None, 32, n, k));
                }
            }
        }
        for (format, rounding, m, n, k) in cases {
            let kind = if rounding == InputRounding::None && !format.is_float() { "-weight" } else { "" };
            let kernel = format!("{format}{kind}");
            if self.wants(&kernel) {
                let mut row = gpu.product(kernel, format, rounding, (m, n, k))?;
                row.share_of_bandwidth = Some(row.weight_tb_per_s / bandwidth * 1e12);
                rows.push(row);
            }
        }
        Ok(Table { device: context.name().to_owned(), read_tb_per_s: Some(bandwidth / 1e12), rows })
    }

    fn on_cpu(&self) -> Result<Table> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let kernels = CpuKernels::best(Arc::new(ThreadPool::new(threads)));
        let mut rows = Vec::new();
        for format in Format::ALL.iter().copied() {
            for (m, n, k) in [(1, 3072, 768), (1, 4096, 4096), (128, 3072, 768)] {
                let kernel = format.name().to_owned();
                if !self.wants(&kernel) {
                    continue;
                }
                let values = random(n * k);
                let packed = kernels.pack(format, n, k, &mut |rows, out| {
                    out.copy_from_slice(&values[rows.start * k..rows.end * k]);
                    Ok::<(), joulewise_kernels::KernelError>(())
                })?;
                let (x, mut y) = (random(m * k), vec![0.0; m * n]);
                let mut run = || -> Result<f64> {
                    let begin = Instant::now();
                    let x = Rows { data: &x, rows: m, cols: k, stride: k };
                    let y = RowsMut { data: &mut y, rows: m, cols: n };
                    kernels.matmul(MatMul {
                        x,
                        rounding: InputRounding::None,
                        w: &packed,
                        bias: None,
                        activation: None,
                        residual: None,
                        next: &[],
                        y,
                    })?;
                    Ok(begin.elapsed().as_secs_f64())
                };
                let times = (0..20).map(|_| run()).collect::<Result<Vec<_>>>()?;
                rows.push(Row::new(kernel, (m, n, k), median(times), packed.size_bytes(), None));
            }
        }
        Ok(Table {
            device: format!("cpu {}, {threads} threads", kernels.isa().name()),
            read_tb_per_s: None,
            rows,
        })
    }
}

impl Row {
    fn new(
        kernel: String,
        (m, n, k): (usize, usize, usize),
        seconds: f64,
        weight_bytes: usize,
        peer: Option<f64>,
    ) -> Self {
        Row {
            kernel,
            m,
            n,
            k,
            time_us: seconds * 1e6,
            tflops: 2.0 * (m * n) as f64 * k as f64 / seconds / 1e12,
            weight_tb_per_s: weight_bytes as f64 / seconds / 1e12,
            share_of_bandwidth: None,
            cublaslt_time_us: peer.map(|peer| peer * 1e6),
            ratio: peer.map(|peer| peer / seconds),
        }
    }
}

struct Gpu {
    kernels: CudaKernels,
    peer: Option<CublasLt>,
}

impl Gpu {
    fn product(
        &self,
        kernel: String,
        format: Format,
        rounding: InputRounding,
        (m, n, k): (usize, usize, usize),
    ) -> Result<Row> {
        let context = self.kernels.context();
        let block = format.encode(&random(BLOCK_ROWS * k), BLOCK_ROWS, k)?;
        let first = matrix(context, &block, n)?;
        let copies = (ROTATED_BYTES / first.size_bytes().max(1)).clamp(1, 64);
        let mut weights = vec![first];
        for _ in 1..copies {
            weights.push(matrix(context, &block, n)?);
        }
        let float = if format == Format::Bf16 { Format::Bf16 } else { Format::F16 };
        let block = float.encode(&random(BLOCK_ROWS * k), BLOCK_ROWS, k)?.data;
        let x: Vec<u8> = block.into_iter().cycle().take(m * k * 2).collect();
        let x = DeviceBuffer::from_slice(context, &x)?;
        let y = DeviceBuffer::<u8>::zeros(context, m * n * 4)?;
        let rows = |data, cols| DeviceRows { data, format: float, offset: 0, rows: m, cols, stride: cols };
        let size = self.kernels.scratch_size(&weights[0], m, float, rounding);
        let scratch = LinearScratch::new(context, size)?;
        // The library is given codes, too.
        let is_rounded = self.kernels.round_rows(&rows(&x, k), rounding, &weights[0], &scratch)?;
        let ours = self.time(weights.len(), &|i| {
            let parts = [LinearPart { w: &weights[i], bias: None, y: rows(&y, n) }];
            self.kernels.linear(&LinearArgs {
                x: rows(&x, k),
                norm: None,
                rounding,
                is_rounded,
                parts: &parts,
                gate: None,
                activation: None,
                residual: None,
                scratch: &scratch,
            })
        })?;
        let bytes = weights[0].size_bytes();
        drop(weights);
        let has_peer = format.is_float() || rounding != InputRounding::None;
        let peer = match &self.peer {
            Some(peer) if has_peer => self.peer_time(peer, format, (m, n, k))?,
            _ => None,
        };
        Ok(Row::new(kernel, (m, n, k), ours, bytes, peer))
    }

    /// The same product in cuBLASLt; `None` for shapes it does not take.
    fn peer_time(
        &self,
        peer: &CublasLt,
        format: Format,
        (m, n, k): (usize, usize, usize),
    ) -> Result<Option<f64>> {
        let Ok(product) = peer.product(format, m, n, k) else { return Ok(None) };
        let context = self.kernels.context();
        let operand = |rows: usize| -> Result<DeviceBuffer<u8>> {
            let block = format.encode(&random(BLOCK_ROWS * k), BLOCK_ROWS, k)?.data;
            let data: Vec<u8> = block.into_iter().cycle().take(rows * format.spec().code_bytes(k)).collect();
            Ok(DeviceBuffer::from_slice(context, &data)?)
        };
        let copies = (ROTATED_BYTES / (n * format.spec().code_bytes(k))).clamp(1, 64);
        let weights = (0..copies).map(|_| operand(n)).collect::<Result<Vec<_>>>()?;
        let (x, y) = (operand(m)?, DeviceBuffer::<u8>::zeros(context, m * n * 4)?);
        let run = |i: usize| Ok(product.submit(&weights[i], &x, &y)?);
        // Some shapes are promised and refused only now.
        if run(0).is_err() {
            return Ok(None);
        }
        Ok(Some(self.time(copies, &run)?))
    }

    /// Median seconds of a launch, from a graph of many with weights in turns.
    fn time(&self, weights: usize, launch: &dyn Fn(usize) -> joulewise_kernels::Result<()>) -> Result<f64> {
        let stream: &Stream = self.kernels.stream();
        let (begin, end) = (Event::new(self.kernels.context())?, Event::new(self.kernels.context())?);
        for i in 0..weights.min(3) {
            launch(i)?;
        }
        stream.record(&begin)?;
        launch(0)?;
        stream.record(&end)?;
        let once_s = end.seconds_since(&begin)?.max(1e-6);
        let count = ((4e-3 / once_s) as usize).clamp(4, 400);
        let mut graph = stream.capture(|| (0..count).try_for_each(|i| launch(i % weights)))?;
        let mut times = Vec::new();
        for _ in 0..9 {
            stream.record(&begin)?;
            graph.launch(stream)?;
            stream.record(&end)?;
            times.push(end.seconds_since(&begin)? / count as f64);
        }
        Ok(median(times))
    }
}

/// What memory delivers to a kernel that only reads, in bytes per second.
fn read_bandwidth(kernels: &CudaKernels) -> Result<f64> {
    let context = kernels.context();
    let x = DeviceBuffer::<f32>::from_slice(context, &random(1 << 20).repeat(1 << 8))?;
    let out = DeviceBuffer::<f32>::zeros(context, 1 << 14)?;
    let stream = kernels.stream();
    let (begin, end) = (Event::new(context)?, Event::new(context)?);
    let mut times = Vec::new();
    for _ in 0..9 {
        stream.record(&begin)?;
        kernels.read_all(&x, &out)?;
        stream.record(&end)?;
        times.push(end.seconds_since(&begin)?);
    }
    Ok(x.size_bytes() as f64 / median(times))
}

/// Read bandwidth and the rate of a large product in f16, of the first GPU.
pub(super) fn ceilings() -> Option<(f64, f64)> {
    let context = Context::new(0).ok()?;
    let kernels = CudaKernels::load(&context, &CubinCache::for_user()).ok()?;
    let bandwidth = read_bandwidth(&kernels).ok()?;
    let gpu = Gpu { kernels, peer: None };
    let row = gpu.product(String::new(), Format::F16, InputRounding::None, (8192, 8192, 8192)).ok()?;
    Some((bandwidth, row.tflops * 1e12))
}

/// A matrix of random numbers; rows repeat, which no kernel notices.
fn matrix(context: &Arc<Context>, block: &EncodedMatrix, n: usize) -> Result<DeviceMatrix> {
    if !n.is_multiple_of(BLOCK_ROWS) {
        bail!("the bench's matrices have a multiple of {BLOCK_ROWS} rows, not {n}");
    }
    let matrix = DeviceMatrix::zeros(context, block.format, n, block.k)?;
    for first in (0..n).step_by(BLOCK_ROWS) {
        matrix.write_rows(first, block)?;
    }
    Ok(matrix)
}

fn random(n: usize) -> Vec<f32> {
    synthetic::noise("bench", n)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
