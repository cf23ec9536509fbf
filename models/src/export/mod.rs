//! Writes a model in the layouts of compressed-tensors, so that other engines read it and it loads here bit by bit as
//! it was written.
//!
//! Quantized matrices are stored `[out, in]` and in the row order of the family's own checkpoints; what keeps a float
//! format stays as the family has it. Of a large model no more than one matrix is in memory.

mod layout;
mod quantization_config;
mod writer;

use std::fs;
use std::path::Path;

use joulewise_engine::{
    EngineError, Format, ModuleKind, PrecisionPlan, WeightLayout, WeightReader, WeightShape, WeightSource,
    WeightSpec,
};
use joulewise_kernels::format::EncodedMatrix;
use serde_json::Value;

use crate::checkpoint::stored_shape;
use crate::config::Pooling;
use crate::error::{ModelError, Result};
use crate::load::LoadedModel;
use crate::{families, file};
use layout::Piece;
pub(crate) use layout::stem;
use quantization_config::Group;
use writer::Writer;

/// Values that are read at a time.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// Files beside the weights that a copy of a model needs, where they are.
const COPIED: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Bytes of `model.safetensors`.
    pub size_bytes: u64,
    /// Matrices and their elements by format, in the order of [`Format::ALL`]; formats without any are left out.
    pub formats: Vec<(Format, usize, usize)>,
    /// Matrices whose rows are no whole number of blocks, which compressed-tensors itself does not decode.
    pub ragged: Vec<String>,
}

/// One weight and how it will be stored.
struct Item<'a> {
    spec: &'a WeightSpec,
    format: Format,
    form: Form,
    /// The tensors it becomes.
    pieces: Vec<Piece>,
}

/// How the values of a weight get into the file.
enum Form {
    /// One by one, in the order of the source.
    AsRead,
    /// One by one, a matrix `[n, k]` of the source as `[k, n]`.
    Transposed { n: usize, k: usize },
    /// As codes and scales. The spec has the row order that is written.
    Quantized { written: WeightSpec, block_len: usize },
}

/// Writes `model`, quantized as `plan` says, to `directory`, which must be empty or not there yet. `on_weight` is told
/// how many weights of how many are done.
///
/// # Errors
/// When the directory cannot be written, a weight cannot be read, or a format has no layout in compressed-tensors.
pub fn export(
    model: &LoadedModel,
    plan: &PrecisionPlan,
    directory: &Path,
    mut on_weight: impl FnMut(usize, usize),
) -> Result<Exported> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Write { path, source }
    };
    let (items, groups) = plan_items(model, plan)?;
    fs::create_dir_all(directory).map_err(io(directory))?;
    if fs::read_dir(directory).map_err(io(directory))?.next().is_some() {
        return Err(ModelError::NotEmpty(directory.to_owned()));
    }
    // The weights get their name when they are complete.
    let (partial, path) = (directory.join("model.safetensors.partial"), directory.join("model.safetensors"));
    let pieces = items.iter().flat_map(|item| &item.pieces);
    let mut writer = Writer::create(&partial, pieces).map_err(io(&partial))?;
    for (index, item) in items.iter().enumerate() {
        write_item(model, item, &mut |piece, at, bytes| {
            writer.write(&piece.name, at, bytes).map_err(io(&partial))
        })?;
        on_weight(index + 1, items.len());
    }
    let size_bytes = writer.finish().map_err(io(&partial))?;
    fs::rename(&partial, &path).map_err(io(&path))?;
    write_companions(model, &groups, directory)?;

    let matrices = || items.iter().filter(|item| matches!(item.spec.shape, WeightShape::Matrix { .. }));
    let formats = Format::ALL.iter().filter_map(|format| {
        let of_format = || matrices().filter(|item| item.format == *format);
        let elements: usize = of_format().map(|item| item.spec.shape.elements()).sum();
        (elements > 0).then(|| (*format, of_format().count(), elements))
    });
    let is_ragged = |item: &&Item<'_>| match (&item.form, item.spec.shape) {
        (Form::Quantized { block_len, .. }, WeightShape::Matrix { k, .. }) => {
            *block_len < k && !k.is_multiple_of(*block_len)
        }
        _ => false,
    };
    let ragged = matrices().filter(is_ragged).map(|item| item.spec.name.clone()).collect();
    Ok(Exported { size_bytes, formats: formats.collect(), ragged })
}

/// What `config.json` says of a model that is quantized as `plan` says; `None` where nothing is.
pub(crate) fn quantization_config(model: &LoadedModel, plan: &PrecisionPlan) -> Result<Option<Value>> {
    let (_, groups) = plan_items(model, plan)?;
    Ok(quantization_config::describe(&groups))
}

/// Every weight with its layout, and the modules that share a scheme.
fn plan_items<'a>(model: &'a LoadedModel, plan: &PrecisionPlan) -> Result<(Vec<Item<'a>>, Vec<Group>)> {
    let formats = plan.weight_formats(&model.graph);
    // A source may have matrices the other way round than the family's own checkpoints.
    let family = families::build_for(&model.config, &|name| model.weights.info(name).is_some())?;
    let mut items = Vec::with_capacity(formats.len());
    let mut groups = Vec::new();
    for ((spec, own), format) in model.graph.weights.iter().zip(&family.weights).zip(formats.iter()) {
        let (module, stem) = (model.graph.modules.get(spec.module), stem(&spec.name));
        let item = match spec.shape {
            WeightShape::Vector { .. } => {
                // Gains and biases keep the format they have.
                let format = model.weights.info(&spec.name).map_or(Format::F32, |info| info.format);
                let pieces = vec![Piece::plain(&spec.name, format, stored_shape(spec))?];
                Item { spec, format, form: Form::AsRead, pieces }
            }
            WeightShape::Matrix { n, k } if format.is_float() => {
                if module.kind == ModuleKind::Head {
                    groups.push(Group::ignored(stem));
                }
                let form = if own.layout == spec.layout { Form::AsRead } else { Form::Transposed { n, k } };
                let pieces = vec![Piece::plain(&spec.name, *format, stored_shape(own))?];
                Item { spec, format: *format, form, pieces }
            }
            WeightShape::Matrix { n, k } => {
                let mut written = spec.clone();
                if matches!(spec.layout, WeightLayout::HeadInterleaved { .. }) {
                    written.layout = WeightLayout::RowMajor;
                }
                let stored = WeightReader::open(model.weights.as_ref(), &written)?.encoded(*format)?;
                let block_len =
                    stored.map_or_else(|| layout::block_len(*format, k), |stored| stored.block_len);
                let pieces = layout::pieces(stem, *format, (n, k), block_len)?;
                let group_size = (block_len < k).then_some(block_len);
                groups.push(Group::new(*format, group_size, plan.precision(module).activation, stem));
                Item { spec, format: *format, form: Form::Quantized { written, block_len }, pieces }
            }
        };
        items.push(item);
    }
    Ok((items, groups))
}

/// Takes bytes for a piece, at an offset within it.
type Sink<'a> = dyn FnMut(&Piece, u64, &[u8]) -> Result<()> + 'a;

fn write_item(model: &LoadedModel, item: &Item<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let source = model.weights.as_ref();
    match &item.form {
        Form::AsRead => {
            let elements = item.spec.shape.elements();
            let mut at = 0;
            for start in (0..elements).step_by(CHUNK_ELEMENTS) {
                let mut values = vec![0.0; CHUNK_ELEMENTS.min(elements - start)];
                source.read(&item.spec.name, start, &mut values)?;
                at += write_floats(item, &values, at, sink)?;
            }
            Ok(())
        }
        Form::Transposed { n, k } => {
            let mut values = vec![0.0; n * k];
            source.read(&item.spec.name, 0, &mut values)?;
            write_floats(item, &transpose(&values, *n, *k), 0, sink).map(drop)
        }
        Form::Quantized { written, block_len } => {
            let encoded = encode(source, written, item.format, *block_len)?;
            for (piece, bytes) in item.pieces.iter().zip(layout::contents(&encoded)) {
                sink(piece, 0, &bytes)?;
            }
            Ok(())
        }
    }
}

/// Rounds values to the item's format and writes them at an offset; returns how many bytes they took.
fn write_floats(item: &Item<'_>, values: &[f32], at: u64, sink: &mut Sink<'_>) -> Result<u64> {
    let encoded = item.format.encode(values, 1, values.len()).map_err(EngineError::from)?;
    sink(&item.pieces[0], at, &encoded.data)?;
    Ok(encoded.data.len() as u64)
}

/// A weight in a format with scales: as it is stored, or rounded now.
fn encode(
    source: &dyn WeightSource,
    spec: &WeightSpec,
    format: Format,
    block_len: usize,
) -> Result<EncodedMatrix> {
    let mut reader = WeightReader::open(source, spec)?;
    if let Some(stored) = reader.encoded(format)? {
        return Ok(stored);
    }
    let WeightShape::Matrix { n, k } = spec.shape else { return Err(unwritable(&spec.name, format)) };
    let rows_at_once = (CHUNK_ELEMENTS / k.max(1)).clamp(1, n.max(1));
    let mut values = vec![0.0; rows_at_once * k];
    let mut chunks = |take: &mut dyn FnMut(usize, &[f32]) -> Result<()>| -> Result<()> {
        for first in (0..n).step_by(rows_at_once) {
            let rows = first..n.min(first + rows_at_once);
            let values = &mut values[..rows.len() * k];
            reader.read_rows(rows, values)?;
            take(first, values)?;
        }
        Ok(())
    };
    let mut amax = 0.0f32;
    if format.has_tensor_scale() {
        chunks(&mut |_, values| {
            amax = values.iter().fold(amax, |amax, value| amax.max(value.abs()));
            Ok(())
        })?;
    }
    let mut encoded = layout::zeroed(format, (n, k), block_len, amax)?;
    chunks(&mut |first, values| Ok(encoded.encode_rows(first, values).map_err(EngineError::from)?))?;
    Ok(encoded)
}

fn unwritable(name: &str, format: Format) -> ModelError {
    ModelError::Unwritable { name: name.to_owned(), format }
}

/// `[n, k]` to `[k, n]`.
fn transpose(values: &[f32], n: usize, k: usize) -> Vec<f32> {
    (0..k).flat_map(|column| (0..n).map(move |row| values[row * k + column])).collect()
}

/// Configuration and tokenizer.
fn write_companions(model: &LoadedModel, groups: &[Group], directory: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        parent.and_then(|()| fs::write(&path, bytes)).map_err(|source| ModelError::Write { path, source })
    };
    match &model.directory {
        Some(from) => {
            for name in COPIED.iter().filter(|name| from.join(name).is_file()) {
                write(name, &file::read(&from.join(name))?)?;
            }
        }
        None => {
            if let Some(tokenizer) = &model.tokenizer {
                write("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
            }
            if model.config.pooling() == Pooling::FirstToken {
                write("1_Pooling/config.json", br#"{"pooling_mode_cls_token": true}"#)?;
            }
        }
    }
    let mut config = model.config.fields().clone();
    config.shift_remove("quantization_config");
    if let Some(quantization) = quantization_config::describe(groups) {
        config.insert("quantization_config".to_owned(), quantization);
    }
    write("config.json", format!("{:#}\n", Value::Object(config)).as_bytes())
}
