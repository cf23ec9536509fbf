//! The word vectors that are part of every transformer: its table of token embeddings, taken alone.

use joulewise_engine::{EngineError, Format, Op, WeightReader, WeightShape};

use super::{CHUNK, WordVectors};
use crate::error::{ModelError, Result};
use crate::load::LoadedModel;

impl WordVectors {
    /// The token embeddings of a model, a word for each token of its vocabulary, kept in `format`; the model's other
    /// weights are not read.
    ///
    /// # Errors
    /// When the model has no tokenizer, or its table cannot be read.
    pub fn of_model(model: &LoadedModel, format: Format) -> Result<Self> {
        let (graph, tokenizer) = (&model.graph, model.tokenizer()?);
        let tables = graph.steps.iter().filter_map(|step| match step.op {
            Op::Embed { table, .. } => Some(&graph.weights[table.index()]),
            _ => None,
        });
        // Positions and token types are embedded, too; the tokens are the table as long as the vocabulary.
        let table = tables.into_iter().find_map(|spec| match spec.shape {
            WeightShape::Matrix { n, k } if n >= graph.vocab_size => Some((spec, n, k)),
            _ => None,
        });
        let (spec, n, k) = table.ok_or_else(|| EngineError::MissingTensor("token embeddings".to_owned()))?;
        let mut reader = WeightReader::open(model.weights.as_ref(), spec)?;
        let mut vectors = WordVectors::empty(format);
        vectors.dimensions = k;
        let mut values = vec![0.0; CHUNK * k];
        for first in (0..n.min(tokenizer.vocab_size())).step_by(CHUNK) {
            let rows = first..n.min(tokenizer.vocab_size()).min(first + CHUNK);
            let values = &mut values[..rows.len() * k];
            reader.read_rows(rows.clone(), values)?;
            vectors.chunks.push(format.encode(values, rows.len(), k)?);
            for row in rows {
                // Padding of a vocabulary has no spelling, and nothing that could be looked up.
                let word = u32::try_from(row).ok().and_then(|id| tokenizer.token(id)).unwrap_or_default();
                vectors.rows.entry(word.clone()).or_insert(row);
                vectors.words.push(word);
            }
        }
        if vectors.words.is_empty() { Err(ModelError::NoTokenizer(model.name.clone())) } else { Ok(vectors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{ModelSpec, load};

    #[test]
    fn tokens_have_the_rows_of_the_table() {
        let model = load(&ModelSpec::parse("demo:distilbert").unwrap()).unwrap();
        let vectors = WordVectors::of_model(&model, Format::F32).unwrap();
        assert_eq!(vectors.len(), model.graph.vocab_size);
        let id = model.tokenizer().unwrap().token_id("film").unwrap() as usize;
        let mut expected = vec![0.0; vectors.dimensions()];
        let name = "distilbert.embeddings.word_embeddings.weight";
        model.weights.read(name, id * vectors.dimensions(), &mut expected).unwrap();
        assert_eq!(vectors.vector("film").unwrap(), expected);
        let synthetic = load(&ModelSpec::parse("synth:tinybert").unwrap()).unwrap();
        assert!(matches!(WordVectors::of_model(&synthetic, Format::F32), Err(ModelError::NoTokenizer(_))));
    }
}
