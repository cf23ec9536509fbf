//! A sentence as the mean of its words: what devices computed before they could run transformers.

use super::{CHUNK, WordVectors};

impl WordVectors {
    /// Mean `[dimensions]` of the vectors of the words, lower-cased and cut at white space, that are in the table; zeros
    /// where none is. Second, how many were.
    pub fn sentence(&self, text: &str) -> (Vec<f32>, usize) {
        let (mut sum, mut row_values) = (vec![0.0; self.dimensions], vec![0.0; self.dimensions]);
        let mut known = 0;
        for word in text.split_whitespace() {
            let Some(&row) = self.rows.get(word).or_else(|| self.rows.get(&word.to_lowercase())) else {
                continue;
            };
            // Cannot fail: the row has as many elements as the table has dimensions.
            let _ = self.chunks[row / CHUNK].decode_row(row % CHUNK, &mut row_values);
            sum.iter_mut().zip(&row_values).for_each(|(sum, value)| *sum += value);
            known += 1;
        }
        sum.iter_mut().for_each(|sum| *sum /= known.max(1) as f32);
        (sum, known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulewise_engine::Format;

    #[test]
    fn known_words_are_averaged() {
        let vectors = WordVectors::read("v.txt", "good 1 0\nfilm 0 2\n".as_bytes(), Format::F32).unwrap();
        assert_eq!(vectors.sentence("A Good film"), (vec![0.5, 1.0], 2));
        assert_eq!(vectors.sentence(" nothing "), (vec![0.0, 0.0], 0));
    }
}
