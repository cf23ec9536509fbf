//! A safetensors file whose header is known before its tensors are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, json};

use super::layout::Piece;

/// Writes tensors in any order to where the header says they are.
pub(super) struct Writer {
    file: File,
    /// First byte of each tensor, counted from the start of the file.
    starts: HashMap<String, u64>,
    size_bytes: u64,
}

impl Writer {
    /// Writes the header.
    pub(super) fn create<'a>(path: &Path, pieces: impl Iterator<Item = &'a Piece>) -> io::Result<Self> {
        let mut pieces: Vec<&Piece> = pieces.collect();
        // Wide numbers first, so that every tensor is aligned; the order of the reference implementation.
        pieces.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut end = 0;
        for Piece { name, dtype, shape } in &pieces {
            let start = end;
            end += size_bytes(*dtype, shape);
            header.insert(
                name.clone(),
                json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [start, end]}),
            );
        }
        let mut text = serde_json::to_string(&header)?;
        // Data starts at a multiple of eight.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let data_start = 8 + text.len() as u64;
        let starts = pieces.iter().scan(data_start, |at, Piece { name, dtype, shape }| {
            let start = *at;
            *at += size_bytes(*dtype, shape);
            Some((name.clone(), start))
        });
        let starts = starts.collect();
        let mut file = File::create_new(path)?;
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(text.as_bytes())?;
        file.set_len(data_start + end)?;
        Ok(Writer { file, starts, size_bytes: data_start + end })
    }

    /// Writes bytes of a tensor, at an offset within it.
    pub(super) fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let start = self.starts.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.file.seek(SeekFrom::Start(start + at))?;
        self.file.write_all(bytes)
    }

    /// Makes sure that everything is on the disk; returns the size of the file.
    pub(super) fn finish(self) -> io::Result<u64> {
        self.file.sync_all()?;
        Ok(self.size_bytes)
    }
}

fn size_bytes(dtype: Dtype, shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64 * dtype.bitsize() as u64 / 8
}
