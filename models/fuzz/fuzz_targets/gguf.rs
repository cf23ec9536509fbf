//! Whatever a GGUF file claims, it is a model whose tensors can be read to their ends, or one sentence.
//!
//! `models/fuzz/run gguf`
#![no_main]

use joulewise_models::{Gguf, families};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let gguf = match Gguf::from_bytes("fuzz", file.to_vec()) {
        Ok(gguf) => gguf,
        Err(error) => {
            let sentence = error.to_string();
            assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
            return;
        }
    };
    let _ = families::build(&gguf.config);
    if let Some(tokenizer) = &gguf.tokenizer {
        let _ = tokenizer.encode("the cat").map(|ids| tokenizer.decode(&ids));
    }
    let names: Vec<String> = gguf.checkpoint.names().map(str::to_owned).collect();
    for name in names {
        // A tensor that was accepted lies in the file, so it is no larger than a few times that.
        let elements: usize = gguf.checkpoint.shape(&name).expect("a name that is listed").iter().product();
        let mut values = vec![0.0; elements];
        let _ = gguf.checkpoint.read_f32(&name, 0, &mut values);
        assert!(gguf.checkpoint.read_f32(&name, elements, &mut [0.0]).is_err());
    }
});
