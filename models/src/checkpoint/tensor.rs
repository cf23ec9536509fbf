//! One tensor, however its numbers are stored.

use std::fmt;

use joulewise_engine::Format;
use joulewise_kernels::format::{EncodedMatrix, bytes_to_f32};
use safetensors::Dtype;

use super::bytes::Slice;

/// A tensor of a checkpoint: the shape that the model sees, and the storage behind it.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// Row-major; the product is known not to overflow.
    pub(crate) shape: Vec<usize>,
    pub(crate) storage: Box<dyn Storage>,
}

/// How the numbers of a tensor are stored.
pub(crate) trait Storage: fmt::Debug + Send + Sync {
    /// What error messages call it, such as `F8_E4M3`.
    fn name(&self) -> String;

    /// The engine's format that holds every value without loss, `None` where they are no real numbers.
    fn format(&self) -> Option<Format>;

    /// Elements `start .. start + out.len()`, row-major; within the tensor.
    ///
    /// # Errors
    /// What is wrong with the numbers there.
    fn read(&self, start: usize, out: &mut [f32]) -> Result<(), String>;

    /// The matrix in the engine's own form, codes and scales as they are stored; `None` where [`Storage::format`] is a
    /// float format.
    fn encoded(&self) -> Option<EncodedMatrix> {
        None
    }

    /// Weights that share a scale in what [`Storage::encoded`] gives.
    fn block_len(&self) -> Option<usize> {
        None
    }

    /// All elements of a tensor of integers.
    fn integers(&self) -> Option<Vec<i64>> {
        None
    }

    /// Whether a matrix lies as `torch.nn.Linear` has it, `[out, in]`, even where the family's own checkpoints have it
    /// the other way round.
    fn is_always_out_by_in(&self) -> bool {
        false
    }
}

impl Tensor {
    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Numbers that stand for themselves, little-endian, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) dtype: Dtype,
    pub(crate) bytes: Slice,
}

impl Storage for Plain {
    fn name(&self) -> String {
        self.dtype.to_string()
    }

    fn format(&self) -> Option<Format> {
        match self.dtype {
            Dtype::F32 => Some(Format::F32),
            Dtype::F16 => Some(Format::F16),
            Dtype::BF16 => Some(Format::Bf16),
            _ => None,
        }
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<(), String> {
        let format = self.format().ok_or_else(|| format!("{} is no float format", self.dtype))?;
        let width = self.dtype.bitsize() / 8;
        let range = start * width..(start + out.len()) * width;
        bytes_to_f32(format, &self.bytes[range.clone()], out).map_err(|error| error.to_string())?;
        self.bytes.release(range);
        Ok(())
    }

    fn integers(&self) -> Option<Vec<i64>> {
        match self.dtype {
            Dtype::I32 => Some(
                self.bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect(),
            ),
            Dtype::I64 => {
                Some(self.bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
            }
            _ => None,
        }
    }
}

/// Reads a range of elements of a matrix that is decoded row by row, each of `cols` elements.
///
/// # Errors
/// What `read_row` finds, or that a decoded value is not finite: a damaged scale.
pub(crate) fn read_by_rows(
    cols: usize,
    start: usize,
    out: &mut [f32],
    mut read_row: impl FnMut(usize, &mut [f32]) -> Result<(), String>,
) -> Result<(), String> {
    let mut read_checked = |row: usize, out: &mut [f32]| {
        read_row(row, out)?;
        match out.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(format!("row {row} decodes to a value that is not finite")),
        }
    };
    let mut scratch = Vec::new();
    let mut done = 0;
    while done < out.len() {
        let (row, offset) = ((start + done) / cols, (start + done) % cols);
        let take = (cols - offset).min(out.len() - done);
        let part = &mut out[done..done + take];
        if take == cols {
            read_checked(row, part)?;
        } else {
            scratch.resize(cols, 0.0);
            read_checked(row, &mut scratch)?;
            part.copy_from_slice(&scratch[offset..offset + take]);
        }
        done += take;
    }
    Ok(())
}
