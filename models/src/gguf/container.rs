//! The GGUF container, versions 2 and 3: metadata, then where each tensor lies, then the tensors.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing in a file is believed: a length is
//! compared with what is left of the file before anything is read or allocated by it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::block::BlockType;
use super::metadata::{Kind, List, Metadata, Value};
use crate::checkpoint::Bytes;
use crate::error::{ModelError, Result};

/// Longest key or tensor name that is believed; the format allows keys of 65535 bytes and names of 64.
const MAX_NAME_BYTES: usize = 65_535;

/// Sizes of a tensor that the format has room for.
const MAX_SIZES: u32 = 4;

/// What a file says about itself.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
}

/// Where one tensor lies and what it is.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Row-major: the reverse of the order in the file.
    pub(super) shape: Vec<usize>,
    pub(super) block: &'static BlockType,
    /// Counted from the start of the file; within it.
    pub(super) bytes: Range<usize>,
}

/// Reads the header of `file`; `origin` names it in errors.
///
/// # Errors
/// [`ModelError::Gguf`], whatever the file holds.
pub(super) fn parse(origin: &str, file: &Arc<Bytes>) -> Result<Container> {
    parse_header(origin, file).map_err(|problem| ModelError::Gguf { origin: origin.to_owned(), problem })
}

fn parse_header(origin: &str, file: &Arc<Bytes>) -> Result<Container, String> {
    let mut cursor = Cursor { bytes: file, at: 0 };
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err("it does not start with `GGUF`".to_owned());
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        version if (1..=3).contains(&version.swap_bytes()) => return Err("it is big-endian".to_owned()),
        version => return Err(format!("it is of version {version}, 2 and 3 are read")),
    }
    // Both counts are limited by the smallest entry: a name of no bytes.
    let tensors = cursor.count("tensors", 24)?;
    let pairs = cursor.count("metadata pairs", 12)?;

    let mut values = HashMap::new();
    for _ in 0..pairs {
        let key = cursor.name("a metadata key")?;
        let value = cursor.value(&key)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key `{key}` occurs twice"));
        }
    }
    let metadata = Metadata::new(origin, file, values);
    let alignment = match metadata.unsigned("general.alignment").map_err(|error| error.to_string())? {
        None => 32,
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => alignment as usize,
        Some(alignment) => return Err(format!("it is aligned to {alignment} bytes")),
    };

    let headers = (0..tensors).map(|_| cursor.tensor()).collect::<Result<Vec<_>, _>>()?;
    // A file of metadata alone (a vocabulary) may end before the padding does.
    let data_start = cursor.at.next_multiple_of(alignment);
    let data_bytes = file.len().saturating_sub(data_start);
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(headers.len());
    for RawTensor { name, shape, kind, offset } in headers {
        if !names.insert(name.clone()) {
            return Err(format!("tensor `{name}` occurs twice"));
        }
        let block = BlockType::find(kind)
            .map_err(|kind| format!("tensor `{name}` is stored as {kind}, which is not read"))?;
        let cols = shape.last().copied().unwrap_or(1);
        let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let bytes = elements
            .filter(|_| cols.is_multiple_of(block.elements))
            // A tensor of no rows has a row length all the same.
            .filter(|_| (cols / block.elements).checked_mul(block.bytes).is_some())
            .and_then(|elements| (elements / block.elements).checked_mul(block.bytes))
            .ok_or_else(|| {
                format!(
                    "tensor `{name}` has shape {shape:?}, which is no whole number of {} blocks",
                    block.name
                )
            })?;
        let offset = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(alignment));
        let offset = offset.ok_or_else(|| format!("tensor `{name}` is not aligned to {alignment} bytes"))?;
        if offset.checked_add(bytes).is_none_or(|end| end > data_bytes) {
            return Err(format!(
                "tensor `{name}` takes {bytes} bytes from byte {offset} of the data, which has {data_bytes}"
            ));
        }
        let start = data_start + offset;
        tensors.push(TensorInfo { name, shape, block, bytes: start..start + bytes });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.bytes.start);
    match order.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
        Some(pair) => Err(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)),
        None => Ok(Container { metadata, tensors }),
    }
}

/// A tensor as the header describes it.
struct RawTensor {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// A place in the header; never leaves the file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.at..].get(..count).ok_or_else(|| {
            let left = self.bytes.len() - self.at;
            format!("it ends within {what}: {count} bytes are due at byte {}, {left} are left", self.at)
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let bytes = self.take(N, what)?;
        // `take` returns what was asked for.
        Ok(bytes.first_chunk().copied().unwrap_or([0; N]))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `smallest` bytes each.
    fn count(&mut self, what: &str, smallest: usize) -> Result<usize, String> {
        let count = self.u64(&format!("the number of {what}"))?;
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left / smallest => Ok(count),
            _ => Err(format!("it claims {count} {what} in the {left} bytes that are left")),
        }
    }

    /// The place of a text.
    fn text(&mut self, what: &str) -> Result<Range<usize>, String> {
        let length = self.count(&format!("bytes of {what}"), 1)?;
        let start = self.at;
        self.take(length, what)?;
        Ok(start..self.at)
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let range = self.text(what)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            // Names are put in sentences.
            Ok(name) if name.contains(char::is_control) => Err(format!("{what} has control characters")),
            Ok(name) if range.len() <= MAX_NAME_BYTES => Ok(name.to_owned()),
            Ok(_) => Err(format!("{what} has {} bytes, at most {MAX_NAME_BYTES} are read", range.len())),
            Err(_) => Err(format!("{what} is not UTF-8")),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, String> {
        let what = format!("the value of `{key}`");
        let kind = Kind::of(self.u32(&what)?, key)?;
        if kind != Kind::List {
            return match kind.size() {
                None => Ok(Value::Text(self.text(&what)?)),
                Some(size) => Ok(kind.number(self.take(size, &what)?)),
            };
        }
        let kind = Kind::of(self.u32(&what)?, key)?;
        if kind == Kind::List {
            return Err(format!("`{key}` is a list of lists, which no model needs"));
        }
        let count = self.count(&format!("elements of `{key}`"), kind.size().unwrap_or(8))?;
        let start = self.at;
        match kind.size() {
            // Within the file, so the product does not overflow.
            Some(size) => drop(self.take(count * size, &what)?),
            None => (0..count).try_for_each(|_| self.text(&what).map(drop))?,
        }
        Ok(Value::List(List { kind, count, bytes: start..self.at }))
    }

    fn tensor(&mut self) -> Result<RawTensor, String> {
        let name = self.name("a tensor's name")?;
        let what = format!("the description of tensor `{name}`");
        let sizes = self.u32(&what)?;
        if sizes > MAX_SIZES {
            return Err(format!("tensor `{name}` has {sizes} sizes, at most {MAX_SIZES} are possible"));
        }
        let mut shape = (0..sizes)
            .map(|_| {
                let size = self.u64(&what)?;
                usize::try_from(size).map_err(|_| format!("tensor `{name}` has a size of {size}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(RawTensor { kind: self.u32(&what)?, offset: self.u64(&what)?, name, shape })
    }
}
