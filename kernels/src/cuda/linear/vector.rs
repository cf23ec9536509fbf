//! Products of one row. The kernels are in `gemv.cu` for floats and in `gemv_codes.cu` for everything else.

use super::operand::rounding_code;
use super::stream::code_name;
use super::{LinearArgs, OP};
use crate::args::NormKind;
use crate::cuda::driver::Launch;
use crate::cuda::{CudaKernels, DeviceMatrix, activation_code, float_code};
use crate::error::Result;
use crate::format::Format;

impl CudaKernels {
    /// Whether rows of the matrix consist of whole 16-byte pieces, and `x` fits into shared memory.
    pub(super) fn can_vector(&self, w: &DeviceMatrix) -> bool {
        w.pitch.is_multiple_of(16) && self.fits("gemv", staged_bytes(w)).is_ok()
    }

    pub(super) fn linear_vector(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, norm, rounding, parts, gate, activation, residual, .. } = *args;
        let (first, w) = (&parts[0], parts[0].w);
        let shared_bytes = staged_bytes(w);
        self.fits(OP, shared_bytes)?;
        let is_float = w.format.is_float();
        let (file, name) = if is_float {
            ("gemv.cu", format!("gemv_{}", w.format))
        } else {
            let suffix = if gate.is_some() { "_gate" } else { "" };
            ("gemv_codes.cu", format!("gemv_codes_{}{suffix}", code_name(w.format)))
        };
        let mut launch = Launch::new(&self.stream, self.function(file, &name)?)
            .memory(x.data, x.offset * x.element_bytes())
            .int(float_code(x.format))
            .int(x.cols)
            .int(norm.map_or(0, |norm| if norm.kind == NormKind::Layer { 1 } else { 2 }))
            .optional(norm.map(|norm| norm.weight))
            .optional(norm.and_then(|norm| norm.bias))
            .float(norm.map_or(0.0, |norm| norm.eps));
        if !is_float {
            let (kind, scale) = rounding_code(rounding, w.format);
            launch = launch.int(kind).float(scale).codes(w);
        }
        for index in 0..3 {
            let Some(part) = parts.get(index) else {
                launch = if is_float { launch } else { launch.null().null() };
                launch = launch.null().null().null().int(0);
                continue;
            };
            let y = if gate.is_some() { &first.y } else { &part.y };
            launch = launch.buffer(&part.w.data, 0);
            if !is_float {
                launch = launch.optional(part.w.block_scales.as_ref()).optional(part.w.row_scales.as_ref());
            }
            launch = launch.optional(part.bias);
            launch = launch.memory(y.data, y.offset * y.element_bytes()).int(part.w.n);
        }
        if is_float {
            launch = launch.int(usize::from(gate.is_some()));
        }
        launch = launch.int(activation_code(gate.or(activation)));
        launch = match &residual {
            Some(residual) => launch
                .memory(residual.data, residual.offset * residual.element_bytes())
                .int(float_code(residual.format)),
            None => launch.null().int(0),
        };
        let launch = launch.int(float_code(first.y.format));
        let rows: usize = if gate.is_some() { w.n } else { parts.iter().map(|part| part.w.n).sum() };
        let multiprocessors = self.context().multiprocessors();
        let (threads, blocks) = if is_float {
            // Two blocks of 16 warps fill a multiprocessor; a warp takes a row at a time.
            (512, (2 * multiprocessors).min(rows.div_ceil(16)))
        } else {
            // Of blocks of 8 warps three or, for 4-bit codes, two; a warp takes two rows at a time, or one of either matrix.
            let residents = if w.block_scales.is_some() { 2 } else { 3 };
            let units = if gate.is_some() { rows } else { rows.div_ceil(2) };
            (256, (residents * multiprocessors).min(units.div_ceil(8)))
        };
        // SAFETY: warps take existing rows in turns; `linear` checked the shapes and the shared memory holds `x`.
        Ok(unsafe { launch.submit([blocks, 1, 1], threads, shared_bytes, true) }?)
    }
}

impl Launch<'_> {
    /// How codes lie: bytes of a row, scales of a row, pieces of 32 elements of a scale.
    pub(super) fn codes(self, w: &DeviceMatrix) -> Self {
        self.long(w.pitch)
            .int(if w.block_scales.is_some() { w.blocks() } else { 0 })
            .int((w.block_len / 32).max(1))
    }
}

/// Shared memory for a row: in f32, or in halves up to a multiple of what a warp multiplies at once.
fn staged_bytes(w: &DeviceMatrix) -> usize {
    match w.format {
        Format::F32 | Format::F16 | Format::Bf16 => w.k.next_multiple_of(8) * size_of::<f32>(),
        _ => w.pitch.next_multiple_of(512) * 8 / w.format.spec().code_bits * 2,
    }
}
