//! Whatever a safetensors file claims, every tensor that is accepted can be read to its end, and no further.
//!
//! `models/fuzz/run safetensors`
#![no_main]

use joulewise_models::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes("fuzz", file.to_vec()) else { return };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        // A name can be shadowed by another that resolves first; then that one's entry counts.
        let elements: usize = checkpoint.shape(&name).expect("a name that is listed").iter().product();
        let mut values = vec![0.0; elements];
        let _ = checkpoint.read_f32(&name, 0, &mut values);
        let _ = checkpoint.read_integers(&name);
        assert!(checkpoint.read_f32(&name, elements, &mut [0.0]).is_err());
    }
});
