//! GGUF: a whole model in one file, the form of llama.cpp.
//!
//! A GGUF file becomes what a Hugging Face directory would be: a [`ModelConfig`], a [`Checkpoint`] whose tensors have
//! their Hugging Face names and row order, and a [`Tokenizer`]. So families know nothing of it.

mod architecture;
mod block;
mod container;
mod metadata;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use joulewise_engine::Format;
use joulewise_kernels::format::EncodedMatrix;

use crate::checkpoint::{Bytes, Checkpoint, Slice, Storage, Tensor, read_by_rows};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;
use architecture::Architecture;
pub(crate) use architecture::stored_name;
use block::BlockType;
use container::Container;

/// What a GGUF file holds.
#[derive(Debug)]
pub struct Gguf {
    /// The configuration, in the words of `config.json`.
    pub config: ModelConfig,
    /// The tensors, under their Hugging Face names.
    pub checkpoint: Checkpoint,
    /// The tokenizer, `None` where the file has none.
    pub tokenizer: Option<Tokenizer>,
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or holds something that is not read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&path.display().to_string(), Bytes::map(path)?)
    }

    /// A file that is in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// When it is damaged, or holds something that is not read.
    pub fn from_bytes(origin: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::read(origin, Bytes::Owned(bytes))
    }

    /// The tokenizer alone, whatever model it belongs to; `None` where the file has none.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or its tokenizer is of a kind that is not read.
    pub fn open_tokenizer(path: &Path) -> Result<Option<Tokenizer>> {
        let file = Arc::new(Bytes::map(path)?);
        tokenizer::load(&container::parse(&path.display().to_string(), &file)?.metadata, None)
    }

    /// The tensors alone, even where they make no model.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or of an architecture that is not read.
    pub fn open_checkpoint(path: &Path) -> Result<Checkpoint> {
        let origin = path.display().to_string();
        let file = Arc::new(Bytes::map(path)?);
        let container = container::parse(&origin, &file)?;
        checkpoint(&origin, &file, &container, architecture::find(&container.metadata)?)
    }

    fn read(origin: &str, bytes: Bytes) -> Result<Self> {
        let file = Arc::new(bytes);
        let container = container::parse(origin, &file)?;
        let architecture = architecture::find(&container.metadata)?;
        let checkpoint = checkpoint(origin, &file, &container, architecture)?;
        let config = architecture.config(&container.metadata, &checkpoint)?;
        let tokenizer = tokenizer::load(&container.metadata, architecture.pre_tokenizer)?;
        Ok(Gguf { config, checkpoint, tokenizer })
    }
}

/// The tensors of a file, as the family calls and orders them.
fn checkpoint(
    origin: &str,
    file: &Arc<Bytes>,
    container: &Container,
    architecture: &Architecture,
) -> Result<Checkpoint> {
    let mut tensors = Vec::with_capacity(container.tensors.len());
    for info in &container.tensors {
        // `parse` has compared the range with the file.
        let Some(bytes) = Slice::new(file, info.bytes.clone()) else { continue };
        let (name, heads) = architecture.tensor(&container.metadata, &info.name)?;
        let rows = heads.map(|heads| RotatedRows::new(&info.name, &info.shape, heads)).transpose();
        let rows = rows.map_err(|problem| ModelError::Gguf { origin: origin.to_owned(), problem })?;
        let cols = info.shape.last().copied().unwrap_or(1);
        let storage = Blocks { block: info.block, bytes, cols, rows };
        tensors.push((name, Tensor { shape: info.shape.clone(), storage: Box::new(storage) }));
    }
    Checkpoint::from_tensors(origin, tensors)
}

/// A tensor in blocks along its rows.
#[derive(Debug)]
struct Blocks {
    block: &'static BlockType,
    bytes: Slice,
    /// Elements of a row.
    cols: usize,
    /// Where the rows are in another order than the model's.
    rows: Option<RotatedRows>,
}

impl Storage for Blocks {
    fn name(&self) -> String {
        self.block.name.to_owned()
    }

    fn format(&self) -> Option<Format> {
        Some(self.block.format)
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<(), String> {
        // A vector whose elements are in another order is a matrix of one column.
        let cols = if self.rows.as_ref().is_some_and(|rows| rows.of_vector) { 1 } else { self.cols };
        let row_bytes = cols / self.block.elements * self.block.bytes;
        read_by_rows(cols, start, out, |row, out| {
            let stored = self.rows.as_ref().map_or(row, |rows| rows.stored(row));
            let range = stored * row_bytes..(stored + 1) * row_bytes;
            self.block.decode_row(&self.bytes[range.clone()], out);
            self.bytes.release(range);
            Ok(())
        })
    }

    fn encoded(&self) -> Option<EncodedMatrix> {
        let split = self.block.split?;
        let (blocks_per_row, rows) = (self.cols / self.block.elements, self.row_count());
        let row_bytes = blocks_per_row * self.block.bytes;
        let (mut data, mut scales) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let stored = self.rows.as_ref().map_or(row, |order| order.stored(row));
            for block in self.bytes[stored * row_bytes..][..row_bytes].chunks_exact(self.block.bytes) {
                split(block, &mut data, &mut scales);
            }
        }
        self.bytes.release(0..self.bytes.len());
        let shape = (rows, self.cols);
        EncodedMatrix::from_parts(self.block.format, shape, self.block.elements, data, scales, 1.0).ok()
    }

    fn block_len(&self) -> Option<usize> {
        self.block.split.map(|_| self.block.elements)
    }

    fn is_always_out_by_in(&self) -> bool {
        true
    }
}

impl Blocks {
    fn row_count(&self) -> usize {
        self.bytes.len() / (self.cols / self.block.elements * self.block.bytes).max(1)
    }
}

/// Row order of query and key projections for llama.cpp's rotary embedding, which turns neighbouring dimensions
/// `(2i, 2i + 1)` of a head where transformers turns `(i, i + head_dim / 2)`.
#[derive(Debug)]
struct RotatedRows {
    head_dim: usize,
    /// Whether this is a bias.
    of_vector: bool,
}

impl RotatedRows {
    fn new(name: &str, shape: &[usize], heads: usize) -> Result<Self, String> {
        let rows = shape.first().copied().unwrap_or(0);
        let head_dim = rows / heads.max(1);
        if heads == 0 || !rows.is_multiple_of(heads) || !head_dim.is_multiple_of(2) {
            return Err(format!("tensor `{name}` has {rows} rows for {heads} heads"));
        }
        Ok(RotatedRows { head_dim, of_vector: shape.len() == 1 })
    }

    /// The row of the file that is row `row` of the model.
    fn stored(&self, row: usize) -> usize {
        let (head, dim) = (row / self.head_dim, row % self.head_dim);
        let (part, pair) = (dim / (self.head_dim / 2), dim % (self.head_dim / 2));
        head * self.head_dim + 2 * pair + part
    }
}
