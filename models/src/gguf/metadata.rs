//! The key-value pairs of a GGUF file. Texts and lists stay where they are in the file until somebody asks.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::Bytes;
use crate::error::{ModelError, Result};

/// A value's type, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

/// In the order of their numbers.
const KINDS: &[Kind] = &[
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::Text,
    Kind::List,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    pub(super) fn of(number: u32, key: &str) -> Result<Self, String> {
        let kind = KINDS.get(number as usize).copied();
        kind.ok_or_else(|| format!("`{key}` is of type {number}, which is unknown"))
    }

    /// Bytes of one number; `None` for what has no fixed size.
    pub(super) fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }

    /// The number in `bytes`, which has this kind's size.
    pub(super) fn number(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        match self {
            Kind::I8 => Value::Signed(i64::from(unsigned as i8)),
            Kind::I16 => Value::Signed(i64::from(unsigned as i16)),
            Kind::I32 => Value::Signed(i64::from(unsigned as i32)),
            Kind::I64 => Value::Signed(unsigned as i64),
            Kind::F32 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
            Kind::F64 => Value::Float(f64::from_bits(unsigned)),
            Kind::Bool => Value::Bool(unsigned != 0),
            _ => Value::Unsigned(unsigned),
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// Where in the file.
    Text(Range<usize>),
    List(List),
}

/// A list of numbers or texts.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) kind: Kind,
    pub(super) count: usize,
    /// Where in the file; known to hold `count` elements.
    pub(super) bytes: Range<usize>,
}

/// All pairs of one file.
#[derive(Debug)]
pub(super) struct Metadata {
    origin: String,
    file: Arc<Bytes>,
    values: HashMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(origin: &str, file: &Arc<Bytes>, values: HashMap<String, Value>) -> Self {
        Metadata { origin: origin.to_owned(), file: file.clone(), values }
    }

    /// What error messages call the file.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(*value)),
            Some(Value::Signed(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(_) => Err(self.wrong(key, "a whole number")),
        }
    }

    /// The id of a special token, by the middle of its key.
    pub(super) fn token_id(&self, name: &str) -> Result<Option<u64>> {
        // What files write for "none".
        const NONE: u64 = u32::MAX as u64;
        Ok(self.unsigned(&format!("tokenizer.ggml.{name}_token_id"))?.filter(|id| *id != NONE))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Unsigned(value)) => Ok(Some(*value as f64)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(range)) => {
                std::str::from_utf8(&self.file[range.clone()]).map(Some).map_err(|_| self.wrong(key, "UTF-8"))
            }
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        if list.kind != Kind::Text {
            return Err(self.wrong(key, "a list of texts"));
        }
        let mut rest = &self.file[list.bytes.clone()];
        let mut texts = Vec::with_capacity(list.count);
        while let Some((length, behind)) = rest.split_first_chunk() {
            // The lengths were checked when the list was read.
            let (text, behind) = behind.split_at(u64::from_le_bytes(*length) as usize);
            texts.push(std::str::from_utf8(text).map_err(|_| self.wrong(key, "a list of UTF-8 texts"))?);
            rest = behind;
        }
        Ok(Some(texts))
    }

    /// A list of numbers of any type.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(List { kind, bytes, .. }) = self.list(key)? else { return Ok(None) };
        let size = kind.size().ok_or_else(|| self.wrong(key, "a list of numbers"))?;
        let numbers = self.file[bytes.clone()].chunks_exact(size).map(|bytes| match kind.number(bytes) {
            Value::Unsigned(value) => value as f64,
            Value::Signed(value) => value as f64,
            Value::Float(value) => value,
            _ => f64::NAN,
        });
        let numbers: Vec<f64> = numbers.collect();
        if numbers.iter().any(|number| number.is_nan()) {
            return Err(self.wrong(key, "a list of numbers"));
        }
        Ok(Some(numbers))
    }

    /// The error for a value that cannot be what it is.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> ModelError {
        ModelError::Gguf { origin: self.origin.clone(), problem: format!("`{key}` is not {expected}") }
    }

    fn list(&self, key: &str) -> Result<Option<&List>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::List(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }
}
