//! Word vectors in the text format of GloVe, word2vec and fastText: the embeddings that were run on devices before
//! transformers were, kept in any number format of the kernels.
//!
//! A line is a word and its numbers, separated by spaces; word2vec and fastText put a line `words dimensions` first.
//! Lookups are those of the literature: nearest neighbours by cosine, and analogies by adding and subtracting unit
//! vectors (3CosAdd; Mikolov et al. 2013, Levy and Goldberg 2014).

mod of_model;
mod sentence;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use joulewise_engine::Format;
use joulewise_kernels::format::EncodedMatrix;

use crate::error::{ModelError, Result};

/// A table of word vectors.
#[derive(Clone, Debug)]
pub struct WordVectors {
    words: Vec<String>,
    rows: HashMap<String, usize>,
    dimensions: usize,
    /// `[CHUNK, dimensions]` each, the last one shorter: a scan decodes one chunk at a time.
    chunks: Vec<EncodedMatrix>,
    format: Format,
    announced: Option<usize>,
}

/// A word and how close it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// The word.
    pub word: String,
    /// Cosine of the angle between the two vectors.
    pub cosine: f32,
}

/// Rows that are encoded and decoded together: 300 kB of f32 at 300 dimensions, which stays in a second-level cache.
const CHUNK: usize = 256;

/// Longest line that is believed; the longest published ones have 20 kB.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Most dimensions that are believed.
const MAX_DIMENSIONS: usize = 1 << 14;

/// The two bytes every gzip file starts with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl WordVectors {
    /// Reads a file, compressed with gzip or not, and keeps its vectors in `format`.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::WordVectorLine`] for the first line that is not a word and its numbers.
    pub fn load(path: &Path, format: Format) -> Result<Self> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let origin = path.display().to_string();
        if reader.fill_buf().map_err(io)?.starts_with(&GZIP_MAGIC) {
            Self::read(&origin, BufReader::new(MultiGzDecoder::new(reader)), format)
        } else {
            Self::read(&origin, reader, format)
        }
    }

    /// Reads the text format; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ModelError::WordVectorLine`].
    pub fn read(origin: &str, mut reader: impl BufRead, format: Format) -> Result<Self> {
        let mut vectors = WordVectors::empty(format);
        let mut pending = Vec::new();
        let mut bytes = Vec::new();
        for line in 1.. {
            let wrong =
                |problem: String| ModelError::WordVectorLine { origin: origin.to_owned(), line, problem };
            bytes.clear();
            reader
                .by_ref()
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| wrong(format!("it cannot be read: {error}")))?;
            if bytes.is_empty() {
                break;
            }
            if bytes.len() as u64 == MAX_LINE_BYTES {
                return Err(wrong(format!("it is longer than {MAX_LINE_BYTES} bytes")));
            }
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
            // Only spaces separate: other white space occurs in words.
            let fields: Vec<&str> = text.trim_end_matches([' ', '\r', '\n']).split(' ').collect();
            if line == 1 && vectors.header(&fields) {
                continue;
            }
            vectors.push(&fields, &mut pending).map_err(wrong)?;
            if pending.len() >= CHUNK * vectors.dimensions {
                vectors.encode(&mut pending)?;
            }
        }
        vectors.encode(&mut pending)?;
        if vectors.words.is_empty() {
            let problem = "the file holds no vectors".to_owned();
            return Err(ModelError::WordVectorLine { origin: origin.to_owned(), line: 1, problem });
        }
        Ok(vectors)
    }

    /// The same vectors, rounded from their present format to another.
    ///
    /// # Errors
    /// None in practice: a chunk has the values its shape asks for.
    pub fn to_format(&self, format: Format) -> Result<Self> {
        let chunks = self.chunks.iter().map(|chunk| {
            let mut values = vec![0.0; chunk.n * chunk.k];
            chunk.decode(&mut values)?;
            Ok(format.encode(&values, chunk.n, chunk.k)?)
        });
        Ok(WordVectors { chunks: chunks.collect::<Result<_>>()?, format, ..self.clone() })
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Never true: a file without vectors is refused.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The format the vectors are kept in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Words that the file's first line promised; fewer may have come when it is an excerpt, or was cut off.
    pub fn announced(&self) -> Option<usize> {
        self.announced
    }

    /// Bytes of the vectors as they are kept, codes and scales.
    pub fn size_bytes(&self) -> usize {
        self.chunks.iter().map(EncodedMatrix::size_bytes).sum()
    }

    /// The words, in the order of the file: in published ones, the most frequent first.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The vector of a word `[dimensions]`, decoded.
    ///
    /// # Errors
    /// [`ModelError::UnknownWord`].
    pub fn vector(&self, word: &str) -> Result<Vec<f32>> {
        let row = *self.rows.get(word).ok_or_else(|| ModelError::UnknownWord(word.to_owned()))?;
        let chunk = &self.chunks[row / CHUNK];
        let mut values = vec![0.0; self.dimensions];
        chunk.decode_row(row % CHUNK, &mut values)?;
        Ok(values)
    }

    /// The `count` words closest to `word`, itself left out, the closest first.
    ///
    /// # Errors
    /// [`ModelError::UnknownWord`].
    pub fn neighbours(&self, word: &str, count: usize) -> Result<Vec<Neighbour>> {
        Ok(self.nearest(&self.vector(word)?, count, &[word]))
    }

    /// What is to `c` as `b` is to `a`: the words closest to `b - a + c` in unit vectors, the three left out.
    ///
    /// # Errors
    /// [`ModelError::UnknownWord`].
    pub fn analogy(&self, a: &str, b: &str, c: &str, count: usize) -> Result<Vec<Neighbour>> {
        let mut query = vec![0.0; self.dimensions];
        for (word, sign) in [(a, -1.0), (b, 1.0), (c, 1.0)] {
            let vector = self.vector(word)?;
            let scale = sign / norm(&vector).max(f32::MIN_POSITIVE);
            query.iter_mut().zip(vector).for_each(|(sum, element)| *sum += scale * element);
        }
        Ok(self.nearest(&query, count, &[a, b, c]))
    }

    /// The `count` words closest to `query [dimensions]` by cosine, `excluded` ones left out, the closest first.
    pub fn nearest(&self, query: &[f32], count: usize, excluded: &[&str]) -> Vec<Neighbour> {
        let query_norm = norm(query);
        let mut values = vec![0.0; CHUNK * self.dimensions];
        let mut closest: Vec<(f32, usize)> = Vec::with_capacity(self.words.len());
        for (index, chunk) in self.chunks.iter().enumerate() {
            let values = &mut values[..chunk.n * chunk.k];
            // Cannot fail: there is a value for each element of the chunk.
            let _ = chunk.decode(values);
            for (row, vector) in values.chunks_exact(self.dimensions).enumerate() {
                let cosine = dot(query, vector) / (query_norm * norm(vector)).max(f32::MIN_POSITIVE);
                closest.push((cosine, index * CHUNK + row));
            }
        }
        let count_with_excluded = count.saturating_add(excluded.len());
        // Equal cosines in the order of the file, so that results do not depend on the sort.
        let order = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count_with_excluded < closest.len() {
            closest.select_nth_unstable_by(count_with_excluded, order);
            closest.truncate(count_with_excluded);
        }
        closest.sort_unstable_by(order);
        let named =
            closest.into_iter().map(|(cosine, row)| Neighbour { word: self.words[row].clone(), cosine });
        named.filter(|neighbour| !excluded.contains(&neighbour.word.as_str())).take(count).collect()
    }

    fn empty(format: Format) -> Self {
        let (words, rows, chunks) = (Vec::new(), HashMap::new(), Vec::new());
        WordVectors { words, rows, dimensions: 0, chunks, format, announced: None }
    }

    /// Whether the first line is `words dimensions`; takes note of it if so.
    fn header(&mut self, fields: &[&str]) -> bool {
        let [words, dimensions] = fields else { return false };
        let (Ok(words), Ok(dimensions)) = (words.parse(), dimensions.parse::<usize>()) else { return false };
        self.announced = Some(words);
        self.dimensions = dimensions;
        true
    }

    /// Takes one line; the numbers are the last fields, since some words contain spaces.
    fn push(&mut self, fields: &[&str], pending: &mut Vec<f32>) -> std::result::Result<(), String> {
        if self.dimensions == 0 {
            self.dimensions = fields.len() - 1;
        }
        if self.dimensions == 0 || self.dimensions > MAX_DIMENSIONS {
            let got = self.dimensions;
            return Err(format!("vectors have {got} dimensions, expected 1 to {MAX_DIMENSIONS}"));
        }
        let Some(word_fields) = fields.len().checked_sub(self.dimensions).filter(|fields| *fields > 0) else {
            let (got, expected) = (fields.len() - 1, self.dimensions);
            return Err(format!("it has {got} numbers, expected {expected}"));
        };
        let word = fields[..word_fields].join(" ");
        let start = pending.len();
        for field in &fields[word_fields..] {
            match field.parse::<f32>() {
                Ok(number) if number.is_finite() => pending.push(number),
                _ => {
                    return Err(format!(
                        "`{}` is not a finite number",
                        field.chars().take(40).collect::<String>()
                    ));
                }
            }
        }
        if self.rows.contains_key(&word) {
            // The first one counts, as in gensim.
            pending.truncate(start);
            return Ok(());
        }
        self.rows.insert(word.clone(), self.words.len());
        self.words.push(word);
        Ok(())
    }

    fn encode(&mut self, pending: &mut Vec<f32>) -> Result<()> {
        if !pending.is_empty() {
            let rows = pending.len() / self.dimensions;
            self.chunks.push(self.format.encode(pending, rows, self.dimensions)?);
            pending.clear();
        }
        Ok(())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f32]) -> f32 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// Royalty in the first dimension, sex in the second, fruit in the third.
    const SAMPLE: &str = "king 1 1 0\nqueen 1 -1 0\nman 0.1 1 0\nwoman 0.1 -1 0\napple 0 0.1 1\n";

    fn read(text: &str) -> Result<WordVectors> {
        WordVectors::read("v.txt", text.as_bytes(), Format::F32)
    }

    fn words(neighbours: Vec<Neighbour>) -> Vec<String> {
        neighbours.into_iter().map(|neighbour| neighbour.word).collect()
    }

    #[test]
    fn neighbours_and_analogies() {
        for format in Format::ALL {
            let vectors = read(SAMPLE).unwrap().to_format(*format).unwrap();
            assert_eq!(words(vectors.neighbours("king", 2).unwrap()), ["man", "apple"], "{format}");
            assert_eq!(words(vectors.analogy("man", "king", "woman", 1).unwrap()), ["queen"], "{format}");
            assert_eq!(vectors.neighbours("king", 100).unwrap().len(), 4);
        }
        let error = read(SAMPLE).unwrap().neighbours("prince", 1).unwrap_err();
        assert_eq!(error.to_string(), "the table has no vector for `prince`");
    }

    #[test]
    fn all_three_tools_write_the_same() {
        let glove = read(SAMPLE).unwrap();
        let word2vec = read(&format!("5 3\n{SAMPLE}")).unwrap();
        let fasttext = read(&format!("9 3\n{}", SAMPLE.replace('\n', " \r\n"))).unwrap();
        for other in [&word2vec, &fasttext] {
            assert_eq!((other.len(), other.dimensions(), other.words()), (5, 3, glove.words()));
            assert_eq!(other.vector("queen").unwrap(), [1.0, -1.0, 0.0]);
        }
        assert_eq!((glove.announced(), fasttext.announced()), (None, Some(9)));
    }

    #[test]
    fn words_may_contain_spaces_and_repeat() {
        let vectors = read("a 1 2\n. . . 3 4\n\u{a0} 5 6\na 7 8\n").unwrap();
        assert_eq!(vectors.words(), ["a", ". . .", "\u{a0}"]);
        assert_eq!(vectors.vector("a").unwrap(), [1.0, 2.0]);
        assert_eq!(vectors.vector(". . .").unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn chunks_are_invisible() {
        let n = 2 * CHUNK + 3;
        let text: String = (0..n).map(|i| format!("w{i} {i} 1\n")).collect();
        let vectors = read(&text).unwrap();
        assert_eq!(vectors.size_bytes(), n * 2 * 4);
        for row in [0, CHUNK - 1, CHUNK, n - 1] {
            assert_eq!(vectors.vector(&format!("w{row}")).unwrap(), [row as f32, 1.0]);
        }
        assert_eq!(vectors.to_format(Format::F16).unwrap().size_bytes(), n * 2 * 2);
    }

    #[test]
    fn compressed_files_are_recognised() {
        let path = std::env::temp_dir().join(format!("joulewise-vectors-{}.gz", std::process::id()));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(SAMPLE.as_bytes()).unwrap();
        let mut compressed = encoder.finish().unwrap();
        std::fs::write(&path, &compressed).unwrap();
        assert_eq!(WordVectors::load(&path, Format::F32).unwrap().len(), 5);
        compressed.truncate(compressed.len() / 2);
        std::fs::write(&path, &compressed).unwrap();
        let error = WordVectors::load(&path, Format::F32).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("it cannot be read"), "{error}");
        assert!(matches!(WordVectors::load(&path, Format::F32), Err(ModelError::Io { .. })));
    }

    #[test]
    fn hostile_lines_get_one_sentence() {
        let long = format!("w {}", "1 ".repeat(1 << 20));
        let cases = [
            ("", "v.txt, line 1: the file holds no vectors"),
            ("3 2\n", "the file holds no vectors"),
            ("word\n", "line 1: vectors have 0 dimensions"),
            ("a 1 2\nb 1\n", "line 2: it has 1 numbers, expected 2"),
            ("a 1 2\n\n", "line 2: it has 0 numbers, expected 2"),
            ("a 1 2\nb 1 x\n", "line 2: `x` is not a finite number"),
            ("a 1 2\nb 1 nan\n", "line 2: `nan` is not a finite number"),
            ("a 1 1e99\n", "line 1: `1e99` is not a finite number"),
            ("1 99999999999\na 1\n", "line 2: vectors have 99999999999 dimensions"),
            (&long, "line 1: it is longer than 1048576 bytes"),
        ];
        for (text, expected) in cases {
            let got = read(text).unwrap_err().to_string();
            assert!(got.contains(expected), "{got} should contain: {expected}");
        }
        let binary = WordVectors::read("v.bin", &b"a 1\n\xff\xfe 1\n"[..], Format::F32).unwrap_err();
        assert_eq!(binary.to_string(), "v.bin, line 2: it is not UTF-8 text");
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(text in "([a-c ]{0,3}( -?[0-9.e]{1,4}){0,4}\n?){0,6}") {
            if let Ok(vectors) = read(&text) {
                for word in vectors.words() {
                    prop_assert!(vectors.neighbours(word, 3).unwrap().len() <= 3);
                }
            }
        }
    }
}
