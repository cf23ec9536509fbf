//! Products of many rows on tensor cores. The kernels are in `gemm_hopper.cu` and `gemm_mma.cu`.

use super::operand::{Operand, RoundedTo, widened_stride};
use super::tile::{STEP_BYTES, Work};
use super::{LinearArgs, LinearPart, OP};
use crate::args::InputRounding;
use crate::cuda::driver::{DeviceBuffer, DeviceMemory, Launch, TensorElement, TensorMap, TensorMaps};
use crate::cuda::{CudaKernels, DeviceMatrix, DeviceRows, activation_code, float_code};
use crate::error::Result;
use crate::format::Format;

/// Rows of results that a warp writes.
const WARP_ROWS: usize = 16;
/// Columns of results that it has in hand at once.
const PIECE_COLS: usize = 32;

/// Whether results have 16-bit elements in rows that begin at multiples of 16 bytes.
fn has_wide_rows(parts: &[LinearPart<'_>]) -> bool {
    parts.iter().all(|part| {
        part.y.format != Format::F32 && part.y.offset.is_multiple_of(8) && part.w.n.is_multiple_of(8)
    })
}

/// Weights as tensor cores read them.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a dyn DeviceMemory,
    offset_bytes: usize,
    pitch: usize,
    scales: Option<&'a DeviceBuffer<f32>>,
}

/// What `x` has to be for a matrix.
pub(super) fn operand_format(w: &DeviceMatrix) -> Format {
    if w.format == Format::Bf16 { Format::Bf16 } else { Format::F16 }
}

impl CudaKernels {
    pub(super) fn can_tensor(&self, w: &DeviceMatrix) -> bool {
        let takes_format = match w.format {
            Format::F32 => false,
            Format::F16 | Format::Bf16 => self.has_tensor_cores_for(w.format),
            _ => true,
        };
        takes_format && w.k.is_multiple_of(8)
    }

    pub(super) fn linear_tensor(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, rounding, is_rounded, parts, gate, scratch, .. } = *args;
        let w = parts[0].w;
        if self.multiplies_codes(w.format, rounding) {
            let x = if is_rounded {
                scratch.rounded_rows(x.cols)
            } else {
                self.rounded(&x, rounding, w.format, RoundedTo::Codes, scratch)?
            };
            let matrices = parts.iter().map(|part| Matrix {
                data: &part.w.data,
                offset_bytes: 0,
                pitch: part.w.pitch,
                scales: part.w.row_scales.as_ref(),
            });
            let element = if w.format == Format::Int8 { "s8" } else { "e4m3" };
            return self.linear_hopper(args, element, x, &matrices.collect::<Vec<_>>());
        }
        let format = operand_format(w);
        let x = match rounding {
            InputRounding::None => self.operand(&x, format, scratch)?,
            _ => self.rounded(&x, rounding, w.format, RoundedTo::Halves, scratch)?,
        };
        let in_place = |w: &DeviceMatrix| w.format.is_float();
        // Widened weights that do not fit side by side are multiplied one after the other.
        let room = parts.iter().map(|part| part.w.n * widened_stride(part.w.k) * 2).sum::<usize>();
        let at_once = self.is_hopper() && (in_place(w) || room <= scratch.weights.len());
        let step = if at_once || gate.is_some() { parts.len() } else { 1 };
        for parts in parts.chunks(step) {
            let mut matrices = Vec::with_capacity(3);
            let mut offset_bytes = 0;
            for part in parts {
                if in_place(part.w) {
                    let (data, pitch) = (&part.w.data, part.w.pitch);
                    matrices.push(Matrix { data, offset_bytes: 0, pitch, scales: None });
                    continue;
                }
                self.widen(part.w, scratch, offset_bytes)?;
                let pitch = widened_stride(part.w.k) * 2;
                matrices.push(Matrix { data: &scratch.weights, offset_bytes, pitch, scales: None });
                offset_bytes += part.w.n * pitch;
            }
            let args = LinearArgs { parts, ..*args };
            if self.is_hopper() {
                self.linear_hopper(&args, format.name(), x, &matrices)?;
            } else {
                self.linear_mma(&args, format, x, &matrices[0], &parts[0])?;
            }
        }
        Ok(())
    }

    fn linear_hopper(
        &self,
        args: &LinearArgs<'_>,
        element: &str,
        x: Operand<'_>,
        matrices: &[Matrix<'_>],
    ) -> Result<()> {
        let LinearArgs { parts, gate, activation, residual, .. } = *args;
        let (m, k) = (args.x.rows, args.x.cols);
        let kind = match element {
            "bf16" => TensorElement::Bf16,
            "f16" => TensorElement::F16,
            _ => TensorElement::Byte,
        };
        let is_gate = gate.is_some();
        let joined = if is_gate { &parts[..1] } else { parts };
        let n: Vec<usize> = joined.iter().map(|part| part.w.n).collect();
        let k_bytes = k * kind.size_bytes();
        let work = Work { m, n: &n, k_bytes, is_gate, multiprocessors: self.context().multiprocessors() };
        let tiling = work.tiling();
        let (groups, width) = (tiling.groups(), tiling.width);
        let box_rows = work.box_rows(groups);
        let map_x = TensorMap::new(x.data, x.offset_bytes, kind, [m, k], x.pitch, box_rows)?;
        let mut maps = [map_x; 4];
        let mut memory: Vec<&dyn DeviceMemory> = vec![x.data];
        for (map, (matrix, part)) in maps[1..].iter_mut().zip(matrices.iter().zip(parts)) {
            let shape = [part.w.n, k];
            *map = TensorMap::new(matrix.data, matrix.offset_bytes, kind, shape, matrix.pitch, width / 2)?;
            memory.push(matrix.data);
        }
        let has_wide_rows = has_wide_rows(joined);
        // The usual residuals have kernels of their own, which request them before the products.
        let ending = match residual {
            Some(residual) if activation.is_none() && tiling.splits == 1 && groups == 2 => {
                let multiple = |of: usize| (residual.offset | residual.stride).is_multiple_of(of);
                let y = &parts[0].y;
                let is_float = residual.format == Format::F32 && y.format == Format::F32;
                if residual.format != Format::F32 && has_wide_rows && multiple(8) {
                    "_halves"
                } else if is_float
                    && multiple(2)
                    && y.offset.is_multiple_of(2)
                    && n[0].is_multiple_of(PIECE_COLS)
                {
                    "_floats"
                } else {
                    ""
                }
            }
            _ => "",
        };
        let name = format!("gemm_hopper_{element}_{}{ending}", tiling.name(is_gate));
        let mut launch = Launch::new(&self.stream, self.function("gemm_hopper.cu", &name)?)
            .maps(Box::new(TensorMaps(maps)), &memory)
            .int(m)
            .int(k_bytes.div_ceil(STEP_BYTES));
        for index in 0..3 {
            launch = launch.int(joined.get(index).map_or(0, |part| part.w.n));
        }
        for index in 0..3 {
            launch = launch.optional(parts.get(index).and_then(|part| part.bias));
        }
        for index in 0..3 {
            launch = launch.optional(matrices.get(index).and_then(|matrix| matrix.scales));
        }
        for index in 0..3 {
            launch = match joined.get(index) {
                Some(part) => launch.memory(part.y.data, part.y.offset * part.y.element_bytes()),
                None => launch.null(),
            };
        }
        let launch = launch
            .optional(x.scales)
            .int(float_code(parts[0].y.format))
            .int(activation_code(gate.or(activation)))
            .int(usize::from(has_wide_rows))
            .residual(residual.as_ref())
            .int(tiling.splits)
            // Widened ones come from the kernel in front.
            .int(usize::from(
                matrices.iter().zip(parts).all(|(matrix, part)| std::ptr::addr_eq(matrix.data, &part.w.data)),
            ))
            .int(box_rows)
            .cluster(tiling.splits);
        let stage_bytes = (64 * groups + width) * STEP_BYTES + 16;
        // Every warp has a box for its results, a bias and perhaps a scale of every column.
        let column_bytes = if kind == TensorElement::Byte { 8 } else { 4 };
        let ending_bytes = WARP_ROWS * STEP_BYTES + width * column_bytes;
        let shared_bytes = tiling.stages() * stage_bytes + groups * 4 * ending_bytes;
        self.fits(OP, shared_bytes)?;
        // SAFETY: blocks or clusters take existing tiles in turns; maps describe the operands and whatever lies beyond is neither read
        // nor written; `linear` checked the shapes, and the shared memory is what the kernel lays out.
        Ok(unsafe { launch.submit([tiling.blocks, 1, 1], 128 + 128 * groups, shared_bytes, true) }?)
    }

    fn linear_mma(
        &self,
        args: &LinearArgs<'_>,
        format: Format,
        x: Operand<'_>,
        matrix: &Matrix<'_>,
        part: &LinearPart<'_>,
    ) -> Result<()> {
        let LinearArgs { activation, residual, .. } = *args;
        let DeviceRows { rows: m, cols: k, .. } = args.x;
        let n = part.w.n;
        let multiprocessors = self.context().multiprocessors();
        // The largest tile that still gives every multiprocessor one; few rows are bound by the weights' way from
        // memory, for which many small tiles with many stages ask at once.
        let (tile_m, tile_n, threads, stages) = [(128, 128, 256, 3), (64, 64, 128, 3)]
            .into_iter()
            .find(|(tile_m, tile_n, ..)| {
                m.div_ceil(*tile_m) * n.div_ceil(*tile_n) >= multiprocessors && m > 32
            })
            .unwrap_or(if m > 16 { (32, 64, 128, 4) } else { (16, 32, 64, 8) });
        let shared_bytes = stages * (tile_m + tile_n) * 32 * 2;
        self.fits(OP, shared_bytes)?;
        let name = format!("gemm_mma_{format}_{tile_m}");
        let launch = Launch::new(&self.stream, self.function("gemm_mma.cu", &name)?)
            .memory(x.data, x.offset_bytes)
            .int(x.pitch / 2)
            .int(m)
            .int(k)
            .memory(matrix.data, matrix.offset_bytes)
            .int(n)
            .optional(part.bias)
            .optional(x.scales)
            .optional(matrix.scales)
            .int(activation_code(activation))
            .residual(residual.as_ref())
            .result(&part.y);
        let blocks = m.div_ceil(tile_m) * n.div_ceil(tile_n);
        // SAFETY: blocks cover `y`, the kernel neither reads nor writes beyond `m`, `n` and `k`; `linear` checked the
        // shapes, and the shared memory is what the kernel lays out.
        Ok(unsafe { launch.submit([blocks, 1, 1], threads, shared_bytes, true) }?)
    }
}
