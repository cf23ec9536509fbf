//! Excerpts of published word vectors, where they stand beside the checkout.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says where it stopped and what it skipped"
)]

use std::io::{self, Write};
use std::path::Path;

use joulewise_models::{Format, WordVectors};

#[test]
fn published_files_load_in_every_format() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/word-vectors");
    if !root.is_dir() {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP word vectors: {} is not there", root.display());
        return;
    }
    let cases = [
        ("glove.6B.100d.sample.txt.gz", 100, 100),
        ("glove.6B.300d.sample.txt.gz", 100, 300),
        ("wiki.en.vec", 99, 300),
    ];
    for (name, words, dimensions) in cases {
        let reference = WordVectors::load(&root.join(name), Format::F32).unwrap();
        assert_eq!((reference.len(), reference.dimensions()), (words, dimensions), "{name}");
        for format in Format::ALL {
            let vectors = WordVectors::load(&root.join(name), *format).unwrap();
            assert_eq!(vectors.to_format(*format).unwrap().size_bytes(), vectors.size_bytes());
            // Rounding each element within the format's bound turns a vector by an angle of that order.
            let bound = format.spec().nmse_bound.max(1e-12);
            for word in ["the", "was", ","] {
                let (exact, rounded) = (reference.vector(word).unwrap(), vectors.vector(word).unwrap());
                let difference: f32 = exact.iter().zip(&rounded).map(|(a, b)| (a - b).powi(2)).sum();
                let norm: f32 = exact.iter().map(|a| a.powi(2)).sum();
                assert!(f64::from(difference / norm) <= bound, "{name} {format} {word}");
            }
        }
    }
    let glove = WordVectors::load(&root.join("glove.6B.100d.sample.txt.gz"), Format::F32).unwrap();
    // What numpy computes from the same file.
    let million = glove.neighbours("million", 4).unwrap();
    let words: Vec<&str> = million.iter().map(|neighbour| neighbour.word.as_str()).collect();
    assert_eq!(words, ["$", "year", "percent", "than"]);
    assert!((million[0].cosine - 0.758402).abs() < 1e-6, "{million:?}");
    let theirs = glove.analogy("he", "his", "they", 2).unwrap();
    assert_eq!((theirs[0].word.as_str(), theirs[1].word.as_str()), ("their", "have"));
    assert!((theirs[0].cosine - 0.944103).abs() < 1e-6, "{theirs:?}");
}
