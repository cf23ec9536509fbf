//! Checkpoints: tensors by name, memory-mapped. Hugging Face's layout is read here: one `model.safetensors`, or shards
//! and their index.
//!
//! Families ask for tensors by the canonical name of the class with a head (`transformer.h.0.ln_1.weight`). Files on
//! the Hub spell the same tensor in other ways, too: with or without the prefix of the base model, `gamma` and `beta` for the
//! norms of BERT, `embed_out` for the head of GPT-NeoX. [`Checkpoint::resolve`] is the one place that knows.

mod bytes;
mod quantized;
mod safetensors;
mod tensor;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};
use std::sync::Arc;

use joulewise_engine::{
    EngineError, Format, TensorInfo, WeightLayout, WeightShape, WeightSource, WeightSpec,
};
use joulewise_kernels::format::EncodedMatrix;
use serde::Deserialize;

use crate::error::{ModelError, Result};
use crate::file;

pub(crate) use bytes::{Bytes, Slice};
pub(crate) use quantized::Zeros;
use quantized::{Part, Parts};
pub(crate) use tensor::{Storage, Tensor, read_by_rows};

/// The tensors of one model.
#[derive(Debug)]
pub struct Checkpoint {
    /// What error messages call it.
    origin: String,
    /// By stored name.
    tensors: HashMap<String, Tensor>,
}

/// Prefixes of the base model, which a checkpoint of the base model alone lacks.
const BASE_PREFIXES: &[&str] = &["bert.", "roberta.", "distilbert.", "transformer.", "gpt_neox.", "model."];

/// Endings that older files spell otherwise.
const LEGACY_ENDINGS: &[(&str, &str)] =
    &[(".weight", ".gamma"), (".bias", ".beta"), ("lm_head.weight", "embed_out.weight")];

/// The part of `model.safetensors.index.json` that matters.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens the checkpoint of a model directory.
    ///
    /// # Errors
    /// When there is none, when it is in another format, or when a file is damaged.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_with(directory, Zeros::default())
    }

    /// [`Checkpoint::open`], where GPTQ's zero points may be stored as they are.
    pub(crate) fn open_with(directory: &Path, gptq_zeros: Zeros) -> Result<Self> {
        let single = directory.join("model.safetensors");
        if single.is_file() {
            return Self::from_file(&single.display().to_string(), Bytes::map(&single)?, gptq_zeros);
        }
        let index = directory.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::open_shards(directory, &index, gptq_zeros);
        }
        Err(ModelError::MissingFile {
            directory: directory.to_owned(),
            file: "model.safetensors",
            advice: advice_for(directory),
        })
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_file(&path.display().to_string(), Bytes::map(path)?, Zeros::default())
    }

    /// A checkpoint that is part of the program; `origin` names it in errors.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn embedded(origin: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::from_file(origin, Bytes::Embedded(bytes), Zeros::default())
    }

    /// A checkpoint that is in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn from_bytes(origin: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::from_file(origin, Bytes::Owned(bytes), Zeros::default())
    }

    fn open_shards(directory: &Path, index: &Path, gptq_zeros: Zeros) -> Result<Self> {
        let origin = index.display().to_string();
        let ShardIndex { weight_map } = serde_json::from_slice(&file::read(index)?)
            .map_err(|source| ModelError::Json { origin: origin.clone(), source })?;
        let mismatch = |problem: String| ModelError::ShardIndex { origin: origin.clone(), problem };

        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            // A shard is a plain file name: an index must not lead out of its directory.
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(mismatch(format!("`{name}` is not the name of a file beside it")));
            }
            let path = directory.join(name);
            if !path.is_file() {
                return Err(mismatch(format!("shard `{name}` is missing")));
            }
            shards.push((path.display().to_string(), Bytes::map(&path)?));
        }
        let parts = read_parts(shards)?;
        match weight_map.keys().filter(|name| !parts.contains_key(*name)).min() {
            Some(name) => Err(mismatch(format!("no shard holds tensor `{name}`"))),
            None => Self::from_parts(&origin, parts, gptq_zeros),
        }
    }

    fn from_file(origin: &str, bytes: Bytes, gptq_zeros: Zeros) -> Result<Self> {
        Self::from_parts(origin, read_parts(vec![(origin.to_owned(), bytes)])?, gptq_zeros)
    }

    fn from_parts(origin: &str, parts: Parts, gptq_zeros: Zeros) -> Result<Self> {
        Self::from_tensors(origin, quantized::assemble(origin, parts, gptq_zeros)?)
    }

    /// A checkpoint of tensors from wherever they came; `origin` names it in errors.
    ///
    /// # Errors
    /// When two tensors have one name.
    pub(crate) fn from_tensors(
        origin: &str,
        list: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self> {
        let mut tensors = HashMap::new();
        for (name, tensor) in list {
            match tensors.entry(name) {
                Entry::Vacant(place) => drop(place.insert(tensor)),
                Entry::Occupied(place) => {
                    let (origin, name) = (origin.to_owned(), place.key().clone());
                    return Err(ModelError::TwiceTensor { origin, name });
                }
            }
        }
        Ok(Checkpoint { origin: origin.to_owned(), tensors })
    }

    /// Stored names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The name under which the file stores a tensor, given its canonical name.
    pub fn resolve(&self, name: &str) -> Option<&str> {
        let bare = BASE_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let prefixed = BASE_PREFIXES.iter().map(|prefix| format!("{prefix}{bare}"));
        [name.to_owned(), bare.to_owned()]
            .into_iter()
            .chain(prefixed)
            .find_map(|spelling| self.stored(&spelling))
    }

    /// The stored name that is `spelling` or its legacy form.
    fn stored(&self, spelling: &str) -> Option<&str> {
        let legacy = LEGACY_ENDINGS
            .iter()
            .filter_map(|(ending, old)| Some(spelling.strip_suffix(ending)?.to_owned() + old));
        std::iter::once(spelling.to_owned())
            .chain(legacy)
            .find_map(|candidate| self.tensors.get_key_value(&candidate).map(|(stored, _)| stored.as_str()))
    }

    /// Shape of a tensor, row-major.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(self.resolve(name)?)?.shape)
    }

    /// Whether a matrix is stored `[out, in]` even where the family's own checkpoints have it the other way round.
    pub(crate) fn is_always_out_by_in(&self, name: &str) -> bool {
        self.find(name).is_ok_and(|tensor| tensor.storage.is_always_out_by_in())
    }

    /// Says whether a weight can be read as it is declared, without reading it.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorDtype`], or [`EngineError::TensorShape`].
    pub fn check(&self, weight: &WeightSpec) -> Result<()> {
        let tensor = self.find(&weight.name)?;
        real_format(&weight.name, tensor)?;
        let expected = stored_shape(weight);
        if tensor.shape == expected {
            return Ok(());
        }
        let (name, got) = (weight.name.clone(), tensor.shape.clone());
        Err(EngineError::TensorShape { name, expected, got }.into())
    }

    /// Elements `start .. start + out.len()` of a tensor, row-major, decoded to f32.
    ///
    /// # Errors
    /// When there is no such tensor, it is shorter, its numbers are no real ones, or they are damaged.
    pub fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self.find(name)?;
        real_format(name, tensor)?;
        let elements = tensor.elements();
        let end = start.saturating_add(out.len());
        if end > elements {
            return Err(ModelError::TensorRange { name: name.to_owned(), elements, end });
        }
        let read = tensor.storage.read(start, out);
        read.map_err(|problem| ModelError::TensorValues { name: name.to_owned(), problem })
    }

    /// A whole tensor of 32- or 64-bit integers.
    ///
    /// # Errors
    /// When there is no such tensor, or it holds other numbers.
    pub fn read_integers(&self, name: &str) -> Result<Vec<i64>> {
        let tensor = self.find(name)?;
        tensor.storage.integers().ok_or_else(|| ModelError::TensorDtype {
            name: name.to_owned(),
            expected: "I32 or I64",
            got: tensor.storage.name(),
        })
    }

    fn find(&self, name: &str) -> Result<&Tensor> {
        let found = self.resolve(name).and_then(|stored| self.tensors.get(stored));
        found.ok_or_else(|| ModelError::MissingTensor { origin: self.origin.clone(), name: name.to_owned() })
    }
}

/// Every tensor of some files.
fn read_parts(files: Vec<(String, Bytes)>) -> Result<Parts> {
    let mut parts = Parts::new();
    for (origin, bytes) in files {
        let file = Arc::new(bytes);
        for (name, entry) in safetensors::parse_header(&origin, &file)? {
            // `parse_header` has compared the range with the file.
            let Some(bytes) = Slice::new(&file, entry.start..entry.end) else { continue };
            if parts.contains_key(&name) {
                return Err(ModelError::TwiceTensor { origin, name });
            }
            parts.insert(name, Part { dtype: entry.dtype, shape: entry.shape, bytes });
        }
    }
    Ok(parts)
}

impl WeightSource for Checkpoint {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.find(name).ok()?;
        // Other numbers count as f32 here; reading them is what fails, and says so.
        let format = tensor.storage.format().unwrap_or(Format::F32);
        Some(TensorInfo { shape: tensor.shape.clone(), format })
    }

    fn encoded(&self, name: &str) -> Option<std::result::Result<EncodedMatrix, EngineError>> {
        let encoded = self.find(name).ok()?.storage.encoded()?;
        let damaged = |row| {
            let problem = format!("row {row} decodes to a value that is not finite");
            ModelError::TensorValues { name: name.to_owned(), problem }.into_engine(name)
        };
        let mut values = vec![0.0; encoded.k];
        let mut is_sound = |row: &usize| {
            encoded.decode_row(*row, &mut values).is_ok() && values.iter().all(|value| value.is_finite())
        };
        Some(match (0..encoded.n).find(|row| !is_sound(row)) {
            Some(row) => Err(damaged(row)),
            None => Ok(encoded),
        })
    }

    fn block_len(&self, name: &str) -> Option<usize> {
        self.find(name).ok()?.storage.block_len()
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> std::result::Result<(), EngineError> {
        self.read_f32(name, start, out).map_err(|error| error.into_engine(name))
    }
}

/// The shape a weight has in a file.
pub(crate) fn stored_shape(weight: &WeightSpec) -> Vec<usize> {
    match (weight.shape, weight.layout) {
        (WeightShape::Vector { n }, _) => vec![n],
        (WeightShape::Matrix { n, k }, WeightLayout::Transposed) => vec![k, n],
        (WeightShape::Matrix { n, k }, _) => vec![n, k],
    }
}

/// The engine's format for the numbers of a tensor.
fn real_format(name: &str, tensor: &Tensor) -> Result<Format> {
    tensor.storage.format().ok_or_else(|| ModelError::TensorDtype {
        name: name.to_owned(),
        expected: "a float format or a quantized layout that is read",
        got: tensor.storage.name(),
    })
}

/// What to tell the owner of a directory without safetensors.
fn advice_for(directory: &Path) -> &'static str {
    let mut advice = "a checkpoint is `model.safetensors`, or shards and `model.safetensors.index.json`";
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path().extension().and_then(|extension| extension.to_str()) {
            Some("bin" | "pt" | "pth") => {
                return "PyTorch pickles are not read, because reading one can run code; \
                        save the model with `save_pretrained(safe_serialization=True)`";
            }
            Some("gguf") => advice = "name the `.gguf` file in it instead of the directory",
            _ => {}
        }
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::Dtype;
    use ::safetensors::tensor::TensorView;
    use std::path::PathBuf;

    /// A directory that is removed with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("joulewise-models-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
            std::fs::write(self.0.join(name), bytes).unwrap();
            self
        }

        fn problem(&self) -> String {
            Checkpoint::open(&self.0).unwrap_err().to_string()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A file of f32 tensors that hold `0, 1, 2, ...`.
    fn file(tensors: &[(&str, usize)]) -> Vec<u8> {
        typed(
            tensors.iter().map(|(name, n)| {
                (*name, Dtype::F32, (0..*n).flat_map(|i| (i as f32).to_le_bytes()).collect())
            }),
        )
    }

    fn typed<'a>(tensors: impl IntoIterator<Item = (&'a str, Dtype, Vec<u8>)>) -> Vec<u8> {
        let tensors: Vec<_> = tensors.into_iter().collect();
        let views = tensors.iter().map(|(name, dtype, bytes)| {
            (*name, TensorView::new(*dtype, vec![bytes.len() * 8 / dtype.bitsize()], bytes).unwrap())
        });
        ::safetensors::serialize(views, None).unwrap()
    }

    fn open(tensors: &[(&str, usize)]) -> Checkpoint {
        Checkpoint::from_bytes("x", file(tensors)).unwrap()
    }

    #[test]
    fn older_spellings_answer_to_the_canonical_name() {
        let cases = [
            ("bert.encoder.layer.0.output.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.gamma"),
            ("bert.embeddings.LayerNorm.bias", "embeddings.LayerNorm.beta"),
            ("transformer.h.0.ln_1.weight", "h.0.ln_1.weight"),
            ("model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"),
            ("lm_head.weight", "embed_out.weight"),
            ("encoder.layer.0.output.dense.weight", "roberta.encoder.layer.0.output.dense.weight"),
        ];
        for (canonical, stored) in cases {
            assert_eq!(open(&[(stored, 1)]).resolve(canonical), Some(stored));
            assert_eq!(open(&[(canonical, 1), (stored, 1)]).resolve(canonical), Some(canonical));
            assert_eq!(open(&[("other", 1)]).resolve(canonical), None);
        }
    }

    #[test]
    fn reading_respects_the_ends_of_a_tensor() {
        let checkpoint = open(&[("a", 4), ("b", 4)]);
        let mut out = [0.0; 2];
        checkpoint.read_f32("a", 2, &mut out).unwrap();
        assert_eq!(out, [2.0, 3.0]);
        for start in [3, 4, usize::MAX] {
            let error = checkpoint.read_f32("a", start, &mut out).unwrap_err().to_string();
            assert!(error.starts_with("tensor `a` has 4 elements"), "{error}");
        }
        assert_eq!(checkpoint.read_f32("c", 0, &mut out).unwrap_err().to_string(), "x has no tensor `c`");
    }

    #[test]
    fn only_floats_are_weights_and_only_integers_are_ids() {
        let bytes = typed([
            ("ids", Dtype::I32, vec![1, 0, 0, 0, 255, 255, 255, 255]),
            ("f8", Dtype::F8_E4M3, vec![0]),
        ]);
        let checkpoint = Checkpoint::from_bytes("x", bytes).unwrap();
        assert_eq!(checkpoint.read_integers("ids").unwrap(), [1, -1]);
        let error = checkpoint.read_f32("f8", 0, &mut [0.0]).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor `f8` is stored as F8_E4M3, expected a float format or a quantized layout that is read"
        );
        assert!(checkpoint.read_integers("f8").is_err());
        assert!(WeightSource::read(&checkpoint, "f8", 0, &mut [0.0]).is_err());
    }

    #[test]
    fn shards_are_one_checkpoint() {
        let scratch = Scratch::new("shards");
        scratch.write("one.safetensors", file(&[("a", 2)])).write("two.safetensors", file(&[("b", 3)]));
        scratch.write(
            "model.safetensors.index.json",
            r#"{"metadata": {"total_size": 20}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#,
        );
        let checkpoint = Checkpoint::open(&scratch.0).unwrap();
        let mut out = [0.0; 3];
        checkpoint.read_f32("b", 0, &mut out).unwrap();
        assert_eq!(out, [0.0, 1.0, 2.0]);
        assert_eq!(checkpoint.shape("a").unwrap(), [2]);
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        let scratch = Scratch::new("index");
        scratch.write("one.safetensors", file(&[("a", 2)])).write("two.safetensors", file(&[("a", 2)]));
        let cases = [
            (r#"{"weight_map": {"a": "gone.safetensors"}}"#, "shard `gone.safetensors` is missing"),
            (r#"{"weight_map": {"a": "../one.safetensors"}}"#, "is not the name of a file beside it"),
            (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "is not the name of a file beside it"),
            (r#"{"weight_map": {"b": "one.safetensors"}}"#, "no shard holds tensor `b`"),
            (r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#, "occurs twice"),
            (r#"{"weight_map": 3}"#, "is not valid JSON"),
            ("{}", "missing field `weight_map`"),
        ];
        for (index, expected) in cases {
            let got = scratch.write("model.safetensors.index.json", index).problem();
            assert!(got.contains(expected), "{got} should contain: {expected}");
        }
    }

    #[test]
    fn other_formats_are_refused_with_a_way_out() {
        let scratch = Scratch::new("formats");
        assert!(scratch.problem().contains("has no model.safetensors: a checkpoint is"));
        assert!(scratch.write("model.gguf", "").problem().contains("`.gguf` file"));
        assert!(scratch.write("pytorch_model.bin", "").problem().contains("safe_serialization"));
        assert!(scratch.write("model.safetensors", "").problem().contains("fewer than the 8"));
    }
}
