//! Whatever a table of word vectors holds, every word that is accepted can be looked up.
//!
//! `models/fuzz/run word_vectors`
#![no_main]

use joulewise_models::{Format, WordVectors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(vectors) = WordVectors::read("fuzz", text, Format::F32) else { return };
    for word in vectors.words().iter().take(4) {
        vectors.neighbours(word, 2).expect("a word that is listed");
    }
});
