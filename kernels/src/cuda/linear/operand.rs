//! What products read: inputs in the element type and the place that a kernel wants them in, weights in 16 bits.

use super::{LinearScratch, OP};
use crate::args::InputRounding;
use crate::cuda::driver::{DeviceBuffer, DeviceMemory, Launch};
use crate::cuda::{CudaKernels, DeviceMatrix, DeviceRows, check, float_code};
use crate::error::Result;
use crate::format::Format;

/// Rows of `x` as a product reads them.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) data: &'a dyn DeviceMemory,
    pub(super) offset_bytes: usize,
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
    /// Multiplies each row's sums.
    pub(super) scales: Option<&'a DeviceBuffer<f32>>,
}

impl LinearScratch {
    /// Codes of 8 bits that a kernel left here.
    pub(super) fn rounded_rows(&self, cols: usize) -> Operand<'_> {
        let pitch = cols.next_multiple_of(16);
        Operand { data: &self.rows, offset_bytes: 0, pitch, scales: Some(&self.scales) }
    }

    /// What a kernel that leaves codes of `rows` here has to know, behind its other arguments: how they are rounded, where codes
    /// and scales go.
    pub(in crate::cuda) fn codes_of<'a>(
        &self,
        launch: Launch<'a>,
        [rows, cols]: [usize; 2],
        rounding: InputRounding,
        weights: Format,
    ) -> Result<Launch<'a>> {
        let pitch = cols.next_multiple_of(16);
        check::at_least(OP, "bytes for rows", rows * pitch, self.rows.len())?;
        check::at_least(OP, "scales of rows", rows, self.scales.len())?;
        let (kind, scale) = rounding_code(rounding, weights);
        Ok(launch.int(kind).float(scale).buffer(&self.rows, 0).int(pitch).buffer(&self.scales, 0))
    }
}

/// What rounded rows are kept as; the kernel's codes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RoundedTo {
    /// Codes of 8 bits, as tensor cores multiply them.
    Codes = 0,
    /// The codes' values in halves.
    Halves = 1,
}

/// The kernel's number of a rounding, and its scale if it has one.
pub(super) fn rounding_code(rounding: InputRounding, weights: Format) -> (usize, f32) {
    let kind = if matches!(weights, Format::Fp8E4m3 | Format::Fp8E5m2) { 2 } else { 1 };
    match rounding {
        InputRounding::None => (0, 0.0),
        InputRounding::PerToken => (kind, 0.0),
        InputRounding::Static { scale } => (kind, scale),
    }
}

impl CudaKernels {
    /// Rows in 16 bits at multiples of 16 bytes, elements up to a multiple of eight zero: `x` itself if it is like that.
    pub(super) fn operand<'a>(
        &self,
        x: &DeviceRows<'a>,
        format: Format,
        scratch: &'a LinearScratch,
    ) -> Result<Operand<'a>> {
        if x.format == format && x.is_aligned() && x.cols.is_multiple_of(8) {
            let (data, offset_bytes, pitch) = (x.data, x.offset * 2, x.stride * 2);
            return Ok(Operand { data, offset_bytes, pitch, scales: None });
        }
        let stride = x.cols.next_multiple_of(8);
        check::at_least(OP, "bytes for rows", x.rows * stride * 2, scratch.rows.len())?;
        let launch = Launch::new(&self.stream, self.function("rows.cu", "activate")?)
            .rows(x)
            .int(x.rows)
            .int(x.cols)
            .int(0)
            .buffer(&scratch.rows, 0)
            .int(float_code(format))
            .int(stride);
        let blocks = (x.rows * stride / 8).div_ceil(256);
        // SAFETY: one thread per eight elements, the kernel drops those beyond; the scratch was checked above.
        unsafe { launch.submit([blocks, 1, 1], 256, 0, true) }?;
        Ok(Operand { data: &scratch.rows, offset_bytes: 0, pitch: stride * 2, scales: None })
    }

    /// Rows rounded to 8 bits.
    pub(super) fn rounded<'a>(
        &self,
        x: &DeviceRows<'_>,
        rounding: InputRounding,
        weights: Format,
        to: RoundedTo,
        scratch: &'a LinearScratch,
    ) -> Result<Operand<'a>> {
        let pitch = x.cols.next_multiple_of(16) * if to == RoundedTo::Codes { 1 } else { 2 };
        check::at_least(OP, "bytes for rows", x.rows * pitch, scratch.rows.len())?;
        check::at_least(OP, "scales of rows", x.rows, scratch.scales.len())?;
        let (kind, scale) = rounding_code(rounding, weights);
        let launch = Launch::new(&self.stream, self.function("quantise.cu", "quantise_rows")?)
            .rows(x)
            .int(x.cols)
            .int(kind)
            .float(scale)
            .int(to as usize)
            .buffer(&scratch.rows, 0)
            .int(x.cols.next_multiple_of(16))
            .buffer(&scratch.scales, 0);
        let threads = x.cols.div_ceil(8).next_multiple_of(32).clamp(32, 512);
        // SAFETY: one block per row; the scratch holds all of them, checked above.
        unsafe { launch.submit([x.rows, 1, 1], threads, 0, true) }?;
        Ok(Operand { data: &scratch.rows, offset_bytes: 0, pitch, scales: Some(&scratch.scales) })
    }

    /// A matrix in halves `[n, k]`, rows as long as [`widened_stride`], at byte `offset` of the scratch.
    pub(super) fn widen(&self, w: &DeviceMatrix, scratch: &LinearScratch, offset: usize) -> Result<()> {
        let stride = widened_stride(w.k);
        check::at_least(OP, "bytes for weights", offset + w.n * stride * 2, scratch.weights.len())?;
        let name = format!("widen_{}", super::stream::code_name(w.format));
        let launch = Launch::new(&self.stream, self.function("gemm_stream.cu", &name)?)
            .buffer(&w.data, 0)
            .optional(w.block_scales.as_ref())
            .optional(w.row_scales.as_ref())
            .long(w.pitch)
            .int(if w.block_scales.is_some() { w.blocks() } else { 0 })
            .int((w.block_len / 32).max(1))
            .int(w.n)
            .int(w.k)
            .buffer(&scratch.weights, offset)
            .int(stride);
        let pieces = w.n * (w.pitch / 16);
        // SAFETY: one thread per 16 bytes of codes, the kernel drops those beyond; the scratch was checked above.
        Ok(unsafe { launch.submit([pieces.div_ceil(256), 1, 1], 256, 0, true) }?)
    }
}

/// Elements from one row to the next of weights in halves.
pub(super) fn widened_stride(k: usize) -> usize {
    k.next_multiple_of(8)
}
