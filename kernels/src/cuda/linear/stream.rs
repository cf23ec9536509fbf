//! Products of few rows. The kernels are in `gemm_stream.cu`.

use std::sync::Arc;

use super::operand::RoundedTo;
use super::{LinearArgs, OP};
use crate::args::InputRounding;
use crate::cuda::driver::{Context, DeviceBuffer, Launch};
use crate::cuda::{CudaKernels, DeviceMatrix, activation_code, check, float_code};
use crate::error::Result;
use crate::format::Format;

/// Sums of blocks that share rows, and how many of them are done.
#[derive(Debug)]
pub(in crate::cuda) struct StreamScratch {
    partials: DeviceBuffer<f32>,
    counters: DeviceBuffer<u32>,
}

const PARTIALS: usize = 8 << 20;
const COUNTERS: usize = 1 << 16;
const WARPS: usize = 8;
/// Rows of `x` up to which weights are streamed.
const MOST_ROWS: usize = 64;

impl StreamScratch {
    pub(in crate::cuda) fn new(context: &Arc<Context>) -> crate::cuda::driver::Result<Self> {
        let partials = DeviceBuffer::zeros(context, PARTIALS)?;
        Ok(Self { partials, counters: DeviceBuffer::zeros(context, COUNTERS)? })
    }
}

/// What a format is called in kernels' names.
pub(super) fn code_name(format: Format) -> &'static str {
    match format {
        Format::F32 => "f32",
        Format::F16 => "f16",
        Format::Bf16 => "bf16",
        Format::Int8 => "s8",
        Format::Int4 => "s4",
        Format::Fp8E4m3 => "e4m3",
        Format::Fp8E5m2 => "e5m2",
        Format::Mxfp4 => "mxfp4",
        Format::Nvfp4 => "nvfp4",
        Format::Nf4 => "nf4",
    }
}

impl CudaKernels {
    /// Whether a matrix is streamed past `m` rows.
    pub(super) fn can_stream(&self, w: &DeviceMatrix, m: usize) -> bool {
        match w.format {
            Format::F32 => false,
            Format::F16 | Format::Bf16 => {
                m <= MOST_ROWS && self.has_tensor_cores_for(w.format) && w.k.is_multiple_of(32)
            }
            // Nothing else takes rows that are no multiple of eight.
            _ => m <= MOST_ROWS || !w.k.is_multiple_of(8),
        }
    }

    pub(super) fn linear_stream(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, rounding, parts, gate, activation, residual, scratch, .. } = *args;
        let first = &parts[0];
        let (w, m, k) = (first.w, x.rows, x.cols);
        let is_float = w.format.is_float();
        let operand = if rounding == InputRounding::None {
            let format = if is_float { w.format } else { Format::F16 };
            self.operand(&x, format, scratch)?
        } else {
            self.rounded(&x, rounding, w.format, RoundedTo::Halves, scratch)?
        };
        let tokens = [8, 16, 32].into_iter().find(|tokens| m <= *tokens).unwrap_or(64);
        let groups = match (tokens, gate.is_some()) {
            (8, false) => 1,
            (32, _) => 4,
            _ => 2,
        };
        let rows = 16 * groups;
        let out = if gate.is_some() { rows / 2 } else { rows };
        let tiles: usize = match gate {
            Some(_) => w.n.div_ceil(out),
            None => parts.iter().map(|part| part.w.n.div_ceil(out)).sum(),
        };
        let token_tiles = m.div_ceil(tokens);
        // 64 bytes of a row of codes.
        let step = if is_float { 32 } else { 512 / w.format.spec().code_bits };
        let steps = k.div_ceil(step);
        let rows_of_x = m.min(tokens);
        let sum_bytes = WARPS * tokens * (rows + 4) * size_of::<f32>();
        // Few rows leave room and registers for two blocks on a multiprocessor.
        let residents = if tokens >= 32 { 1 } else { 2 };
        let room = self.context().shared_memory_bytes() / residents - 2048;
        let slots = residents * self.context().multiprocessors();
        // Blocks that share rows: so many that x fits, and that there is work for every multiprocessor, with a step or
        // two for each warp.
        let shared_bytes = |splits: usize| (steps.div_ceil(splits) * step + 32) * 2 * rows_of_x + sum_bytes;
        let fitting = (1..=steps).find(|splits| shared_bytes(*splits) <= room).unwrap_or(steps);
        let items = tiles * token_tiles;
        let most = (steps / (2 * WARPS)).min(PARTIALS / (items * tokens * rows)).max(1);
        let splits = if items > COUNTERS { 1 } else { fitting.max((slots / items).min(most)) };
        if splits > 1 {
            check::at_most(OP, "partial sums", PARTIALS, items * tokens * rows * splits)?;
        }
        // Blocks stay and take tiles in turns, as evenly as can be.
        let rounds = tiles.div_ceil((slots / (splits * token_tiles)).max(1));
        let across = tiles.div_ceil(rounds);
        let shared_bytes = shared_bytes(splits);
        self.fits(OP, shared_bytes)?;
        let suffix = if gate.is_some() { "_gate" } else { "" };
        let name = format!("gemm_stream_{}_{tokens}{suffix}", code_name(w.format));
        let mut launch = Launch::new(&self.stream, self.function("gemm_stream.cu", &name)?)
            .memory(operand.data, operand.offset_bytes)
            .int(operand.pitch / 2)
            .int(m)
            .int(k)
            .optional(operand.scales)
            .codes(w)
            .int(splits);
        for index in 0..3 {
            launch = match parts.get(index) {
                Some(part) => {
                    let y = if gate.is_some() { &first.y } else { &part.y };
                    launch
                        .buffer(&part.w.data, 0)
                        .optional(part.w.block_scales.as_ref())
                        .optional(part.w.row_scales.as_ref())
                        .optional(part.bias)
                        .memory(y.data, y.offset * y.element_bytes())
                        .int(part.w.n)
                }
                None => launch.null().null().null().null().null().int(0),
            };
        }
        let launch = launch
            .int(activation_code(gate.or(activation)))
            .residual(residual.as_ref())
            .int(float_code(first.y.format))
            .buffer(&self.sums.partials, 0)
            .buffer(&self.sums.counters, 0);
        // SAFETY: blocks cover the rows of every matrix and the tokens, and drop those beyond; shapes were checked, the
        // shared memory is what the kernel lays out, and the partial sums fit.
        Ok(unsafe { launch.submit([across, splits, token_tiles], WARPS * 32, shared_bytes, true) }?)
    }
}
