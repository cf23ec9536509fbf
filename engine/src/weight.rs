//! Weights: what a family declares, and where their values come from.

use std::ops::Range;

use joulewise_kernels::format::{EncodedMatrix, Format};

use crate::error::{EngineError, Result};
use crate::module::ModuleId;

/// Index of a weight in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

impl WeightId {
    /// As an index into per-weight tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Logical shape of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightShape {
    /// `[n, k]`: `n` output features (or table rows), `k` input features.
    Matrix {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// `[n]`: a bias or a gain, always kept in f32.
    Vector {
        /// Elements.
        n: usize,
    },
}

impl WeightShape {
    /// Number of elements.
    pub fn elements(self) -> usize {
        match self {
            WeightShape::Matrix { n, k } => n * k,
            WeightShape::Vector { n } => n,
        }
    }
}

/// How the checkpoint lays a weight out, seen from `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[n, k]`, as `torch.nn.Linear` has it.
    RowMajor,
    /// `[k, n]`, as GPT-2's `Conv1D` has it.
    Transposed,
    /// Fused query-key-value rows ordered head by head, `[heads, 3, head_dim]` (BLOOM, GPT-NeoX); loaded as
    /// `[3, heads, head_dim]`, all queries first.
    HeadInterleaved {
        /// Heads.
        heads: usize,
    },
}

/// One weight as a family declares it.
#[derive(Clone, Debug)]
pub struct WeightSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Logical shape.
    pub shape: WeightShape,
    /// Layout in the checkpoint.
    pub layout: WeightLayout,
    /// The module that brought it in; a tied head uses its embedding's.
    pub module: ModuleId,
}

impl WeightSpec {
    /// Whether loading it in `format` takes the codes and scales of `source` as they are.
    fn is_kept(&self, source: &dyn WeightSource, format: Format) -> bool {
        !format.is_float()
            && self.layout != WeightLayout::Transposed
            && source.info(&self.name).is_some_and(|info| info.format == format)
    }

    /// Weights that will share a scale once it, of `k` columns, has been loaded in `format`: known before it is read.
    pub fn block_len(&self, source: &dyn WeightSource, format: Format, k: usize) -> usize {
        let stored = source.block_len(&self.name).filter(|_| self.is_kept(source, format));
        stored.unwrap_or_else(|| format.spec().block_len(k))
    }
}

/// What a source knows of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// Number format in the file; where the engine has none like it, the one that holds every value without loss.
    pub format: Format,
}

/// Where weights come from; implemented by checkpoints and by the synthetic generator.
///
/// Reading by element range lets a backend pack a matrix panel by panel without a second copy of it.
pub trait WeightSource: Sync {
    /// Shape and stored format of a tensor, `None` when there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Elements `start .. start + out.len()` in the file's row-major order, decoded to f32.
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`], or [`EngineError::WeightSource`] with the source's own error.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;

    /// A matrix as it is stored, codes and scales, where [`TensorInfo::format`] is a format with scales; `None` where it
    /// is not. Its rows are those of the file.
    fn encoded(&self, name: &str) -> Option<Result<EncodedMatrix>> {
        let _ = name;
        None
    }

    /// Weights that share a scale in what [`WeightSource::encoded`] gives.
    fn block_len(&self, name: &str) -> Option<usize> {
        let _ = name;
        None
    }
}

/// Reads logical rows of one weight, undoing the checkpoint's layout.
pub struct WeightReader<'a> {
    source: &'a dyn WeightSource,
    spec: &'a WeightSpec,
    /// The whole tensor, rearranged; only for layouts whose rows are not contiguous in the file.
    rearranged: Option<Vec<f32>>,
}

impl<'a> WeightReader<'a> {
    /// Checks that the tensor is there with the declared shape.
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`], [`EngineError::TensorShape`], or the source's own.
    pub fn open(source: &'a dyn WeightSource, spec: &'a WeightSpec) -> Result<Self> {
        let info = source.info(&spec.name).ok_or_else(|| EngineError::MissingTensor(spec.name.clone()))?;
        let expected = match (spec.shape, spec.layout) {
            (WeightShape::Matrix { n, k }, WeightLayout::Transposed) => vec![k, n],
            (WeightShape::Matrix { n, k }, _) => vec![n, k],
            (WeightShape::Vector { n }, _) => vec![n],
        };
        if info.shape != expected {
            return Err(EngineError::TensorShape { name: spec.name.clone(), expected, got: info.shape });
        }
        let rearranged = match (spec.shape, spec.layout) {
            (WeightShape::Matrix { n, k }, WeightLayout::Transposed) => {
                let mut stored = vec![0.0; n * k];
                source.read(&spec.name, 0, &mut stored)?;
                Some(transpose(&stored, k, n))
            }
            _ => None,
        };
        Ok(WeightReader { source, spec, rearranged })
    }

    /// The whole weight as it is stored, where that is in `format`, a format with scales; no value is rounded again.
    ///
    /// # Errors
    /// The source's own.
    pub fn encoded(&self, format: Format) -> Result<Option<EncodedMatrix>> {
        if !self.spec.is_kept(self.source, format) {
            return Ok(None);
        }
        let encoded = self.source.encoded(&self.spec.name).transpose()?;
        match (encoded, self.spec.layout) {
            (Some(stored), WeightLayout::HeadInterleaved { heads }) => {
                let rows = || (0..stored.n).map(|row| stored_row(row, stored.n, heads));
                let data = rows().flat_map(|row| stored.row_codes(row)).copied().collect();
                let scales = rows().flat_map(|row| stored.row_scales(row)).copied().collect();
                let EncodedMatrix { n, k, block_len, tensor_scale, .. } = stored;
                Ok(Some(EncodedMatrix::from_parts(format, (n, k), block_len, data, scales, tensor_scale)?))
            }
            (encoded, _) => Ok(encoded),
        }
    }

    /// Logical rows `rows` (elements, for a vector) in row-major order.
    ///
    /// # Errors
    /// The source's own.
    pub fn read_rows(&mut self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (n, k) = match self.spec.shape {
            WeightShape::Matrix { n, k } => (n, k),
            WeightShape::Vector { n } => (n, 1),
        };
        if let Some(matrix) = &self.rearranged {
            out.copy_from_slice(&matrix[rows.start * k..rows.end * k]);
            return Ok(());
        }
        match self.spec.layout {
            WeightLayout::HeadInterleaved { heads } => {
                for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
                    self.source.read(&self.spec.name, stored_row(row, n, heads) * k, out)?;
                }
                Ok(())
            }
            WeightLayout::RowMajor | WeightLayout::Transposed => {
                self.source.read(&self.spec.name, rows.start * k, out)
            }
        }
    }
}

/// Where a fused tensor of `n` rows, ordered head by head, has the row that is `row` with all queries first.
fn stored_row(row: usize, n: usize, heads: usize) -> usize {
    let head_dim = n / (3 * heads);
    let (part, head, dim) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
    (head * 3 + part) * head_dim + dim
}

/// `[rows, cols]` to `[cols, rows]`, in tiles that stay in the first-level cache.
fn transpose(stored: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; stored.len()];
    for row_tile in (0..rows).step_by(TILE) {
        for col_tile in (0..cols).step_by(TILE) {
            for row in row_tile..rows.min(row_tile + TILE) {
                for col in col_tile..cols.min(col_tile + TILE) {
                    out[col * rows + row] = stored[row * cols + col];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source of one tensor whose element `i` is `i`.
    struct Counting(Vec<usize>);
    impl WeightSource for Counting {
        fn info(&self, _: &str) -> Option<TensorInfo> {
            Some(TensorInfo { shape: self.0.clone(), format: Format::F32 })
        }
        fn read(&self, _: &str, start: usize, out: &mut [f32]) -> Result<()> {
            for (i, value) in out.iter_mut().enumerate() {
                *value = (start + i) as f32;
            }
            Ok(())
        }
    }

    fn rows(shape: WeightShape, layout: WeightLayout, stored: &[usize]) -> Result<Vec<f32>> {
        let spec = WeightSpec { name: "w".into(), shape, layout, module: ModuleId::ROOT };
        let source = Counting(stored.to_vec());
        let mut out = vec![0.0; shape.elements()];
        let n = match shape {
            WeightShape::Matrix { n, .. } | WeightShape::Vector { n } => n,
        };
        WeightReader::open(&source, &spec)?.read_rows(0..n, &mut out)?;
        Ok(out)
    }

    #[test]
    fn transposed_rows_are_columns() {
        let got = rows(WeightShape::Matrix { n: 2, k: 3 }, WeightLayout::Transposed, &[3, 2]).unwrap();
        assert_eq!(got, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    }

    #[test]
    fn interleaved_heads_become_queries_keys_values() {
        // Two heads of two dimensions; stored rows: q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1.
        let layout = WeightLayout::HeadInterleaved { heads: 2 };
        let got = rows(WeightShape::Matrix { n: 12, k: 1 }, layout, &[12, 1]).unwrap();
        assert_eq!(got, [0., 1., 6., 7., 2., 3., 8., 9., 4., 5., 10., 11.]);
    }

    /// A source of one int8 tensor whose row `i` consists of `i`.
    struct Stored {
        n: usize,
    }
    impl WeightSource for Stored {
        fn info(&self, _: &str) -> Option<TensorInfo> {
            Some(TensorInfo { shape: vec![self.n, 2], format: Format::Int8 })
        }
        fn read(&self, _: &str, _: usize, _: &mut [f32]) -> Result<()> {
            Err(EngineError::MissingTensor("not to be read".into()))
        }
        fn encoded(&self, _: &str) -> Option<Result<EncodedMatrix>> {
            let data = (0..self.n).flat_map(|row| [row as u8; 2]).collect();
            let scales = (0..self.n).flat_map(|row| (row as f32).to_le_bytes()).collect();
            let shape = (self.n, 2);
            Some(EncodedMatrix::from_parts(Format::Int8, shape, 2, data, scales, 1.0).map_err(Into::into))
        }
    }

    #[test]
    fn stored_codes_are_taken_as_they_are_in_the_order_of_the_engine() {
        let stored = |layout, format| {
            let shape = WeightShape::Matrix { n: 12, k: 2 };
            let spec = WeightSpec { name: "w".into(), shape, layout, module: ModuleId::ROOT };
            WeightReader::open(&Stored { n: 12 }, &spec).unwrap().encoded(format).unwrap()
        };
        let rows = |encoded: EncodedMatrix| {
            let mut out = [0.0; 24];
            encoded.decode(&mut out).unwrap();
            out.iter().step_by(2).map(|square| square.sqrt()).collect::<Vec<_>>()
        };
        let plain = rows(stored(WeightLayout::RowMajor, Format::Int8).unwrap());
        assert_eq!(plain, [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]);
        let heads = rows(stored(WeightLayout::HeadInterleaved { heads: 2 }, Format::Int8).unwrap());
        assert_eq!(heads, [0., 1., 6., 7., 2., 3., 8., 9., 4., 5., 10., 11.]);
        assert!(stored(WeightLayout::RowMajor, Format::Int4).is_none());
        assert!(stored(WeightLayout::RowMajor, Format::F32).is_none());
    }

    #[test]
    fn blocks_have_the_stored_length_where_codes_are_taken_as_they_are() {
        /// Four bits with a scale for every 64 weights.
        struct Wide;
        impl WeightSource for Wide {
            fn info(&self, _: &str) -> Option<TensorInfo> {
                Some(TensorInfo { shape: vec![2, 128], format: Format::Int4 })
            }
            fn read(&self, name: &str, _: usize, _: &mut [f32]) -> Result<()> {
                Err(EngineError::MissingTensor(name.into()))
            }
            fn block_len(&self, _: &str) -> Option<usize> {
                Some(64)
            }
        }
        let block_len = |source: &dyn WeightSource, layout, format| {
            let shape = WeightShape::Matrix { n: 2, k: 128 };
            WeightSpec { name: "w".into(), shape, layout, module: ModuleId::ROOT }
                .block_len(source, format, 128)
        };
        let own = Format::Int4.spec().block_len(128);
        assert_ne!(own, 64);
        assert_eq!(block_len(&Wide, WeightLayout::RowMajor, Format::Int4), 64);
        assert_eq!(block_len(&Wide, WeightLayout::Transposed, Format::Int4), own);
        assert_eq!(block_len(&Wide, WeightLayout::RowMajor, Format::Int8), 128);
        assert_eq!(block_len(&Counting(vec![2, 128]), WeightLayout::RowMajor, Format::Int4), own);
    }

    #[test]
    fn a_wrong_shape_names_both() {
        let error = rows(WeightShape::Vector { n: 4 }, WeightLayout::RowMajor, &[5]).unwrap_err();
        assert_eq!(error.to_string(), "tensor `w` has shape [5], the configuration says [4]");
    }
}
