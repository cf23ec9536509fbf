//! Whatever the parts of quantized matrices look like, they are matrices that can be read, or one sentence.
//!
//! The input is parts, not a file: bytes at random hardly ever are a valid header. `models/fuzz/run quantized`
#![no_main]

use joulewise_engine::WeightSource;
use joulewise_models::Checkpoint;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const PARTS: &[&str] = &[
    "weight", "weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale",
    "weight_zero_point", "weight_g_idx", "weight_shape", "qweight", "qzeros", "scales", "g_idx",
];
const TYPES: &[(&str, usize)] = &[
    ("I32", 4), ("I8", 1), ("U8", 1), ("F32", 4), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1),
    ("F8_E8M0", 1), ("I64", 8),
];

#[derive(Arbitrary, Debug)]
struct Part {
    module: bool,
    name: u8,
    kind: u8,
    shape: Vec<u8>,
    /// Repeated to the length that the shape asks for.
    bytes: Vec<u8>,
}

/// A safetensors file of these parts, later ones of the same name left out.
fn file(parts: &[Part]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for part in parts.iter().take(12) {
        let module = if part.module { "a" } else { "b" };
        let name = format!("{module}.{}", PARTS[part.name as usize % PARTS.len()]);
        let (kind, size) = TYPES[part.kind as usize % TYPES.len()];
        let shape: Vec<usize> = part.shape.iter().take(3).map(|size| *size as usize).collect();
        let length = shape.iter().product::<usize>() * size;
        if header.contains_key(&name) || length > 1 << 16 {
            continue;
        }
        let start = data.len();
        data.extend(part.bytes.iter().chain([&0]).cycle().take(length));
        let offsets = [start, data.len()];
        header.insert(name, serde_json::json!({"dtype": kind, "shape": shape, "data_offsets": offsets}));
    }
    let header = serde_json::Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data[..]].concat()
}

fuzz_target!(|parts: Vec<Part>| {
    let checkpoint = match Checkpoint::from_bytes("fuzz", file(&parts)) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let sentence = error.to_string();
            assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
            return;
        }
    };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        let elements: usize = checkpoint.shape(&name).expect("a name that is listed").iter().product();
        let mut values = vec![0.0; elements];
        let read = checkpoint.read_f32(&name, 0, &mut values);
        if let Some(Ok(encoded)) = checkpoint.encoded(&name) {
            assert_eq!(checkpoint.block_len(&name), Some(encoded.block_len));
            let mut decoded = vec![0.0; elements];
            encoded.decode(&mut decoded).expect("a matrix of the shape that was said");
            // What is used as it is stored means what reading says; NaN is not equal to itself.
            let is_same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
            assert!(read.is_err() || values.iter().zip(&decoded).all(is_same));
        }
    }
});
