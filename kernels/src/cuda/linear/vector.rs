//! Products of one row with float weights. The kernel is in `gemv.cu`.

use super::{LinearArgs, OP};
use crate::args::NormKind;
use crate::cuda::driver::Launch;
use crate::cuda::{CudaKernels, DeviceMatrix, activation_code, float_code};
use crate::error::Result;

impl CudaKernels {
    /// Whether rows of the matrix consist of whole 16-byte pieces, and `x` fits into shared memory.
    pub(super) fn can_vector(&self, w: &DeviceMatrix) -> bool {
        w.format.is_float() && w.pitch.is_multiple_of(16) && self.fits("gemv", staged_bytes(w.k)).is_ok()
    }

    pub(super) fn linear_vector(&self, args: &LinearArgs<'_>) -> Result<()> {
        let LinearArgs { x, norm, parts, gate, activation, residual, .. } = *args;
        let first = &parts[0];
        let shared_bytes = staged_bytes(x.cols);
        self.fits(OP, shared_bytes)?;
        let name = format!("gemv_{}", first.w.format);
        let mut launch = Launch::new(&self.stream, self.function("gemv.cu", &name)?)
            .memory(x.data, x.offset * x.element_bytes())
            .int(float_code(x.format))
            .int(x.cols)
            .int(norm.map_or(0, |norm| if norm.kind == NormKind::Layer { 1 } else { 2 }))
            .optional(norm.map(|norm| norm.weight))
            .optional(norm.and_then(|norm| norm.bias))
            .float(norm.map_or(0.0, |norm| norm.eps));
        for index in 0..3 {
            launch = match parts.get(index) {
                Some(part) => {
                    let y = if gate.is_some() { &first.y } else { &part.y };
                    let launch = launch.buffer(&part.w.data, 0).optional(part.bias);
                    launch.memory(y.data, y.offset * y.element_bytes()).int(part.w.n)
                }
                None => launch.null().null().null().int(0),
            };
        }
        launch = launch.int(usize::from(gate.is_some())).int(activation_code(gate.or(activation)));
        launch = match &residual {
            Some(residual) => launch
                .memory(residual.data, residual.offset * residual.element_bytes())
                .int(float_code(residual.format)),
            None => launch.null().int(0),
        };
        let launch = launch.int(float_code(first.y.format));
        let rows = if gate.is_some() { first.w.n } else { parts.iter().map(|part| part.w.n).sum() };
        // Two blocks of 16 warps fill a multiprocessor; a warp takes a row at a time.
        let blocks = (2 * self.context().multiprocessors()).min(rows.div_ceil(16));
        // SAFETY: warps take existing rows in turns; `linear` checked the shapes and the shared memory holds `x`.
        Ok(unsafe { launch.submit([blocks, 1, 1], 512, shared_bytes, true) }?)
    }
}

/// Shared memory for a row of `k` elements.
fn staged_bytes(k: usize) -> usize {
    k.next_multiple_of(8) * size_of::<f32>()
}
