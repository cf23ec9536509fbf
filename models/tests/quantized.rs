//! Quantized matrices in safetensors files against what they mean, written by the scripts in `tests/quantized`.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use std::path::Path;

use joulewise_engine::WeightSource;
use joulewise_models::{Checkpoint, Format};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn open(name: &str) -> Checkpoint {
    Checkpoint::open_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quantized").join(name)).unwrap()
}

/// All of a tensor.
fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let mut values = vec![0.0; checkpoint.shape(name).unwrap().iter().product()];
    checkpoint.read_f32(name, 0, &mut values).unwrap();
    values
}

/// Every module with an `expected` tensor, and the engine's format it is stored in.
fn check(file: &str, formats: &[(&str, Format)]) {
    let checkpoint = open(file);
    let mut found: Vec<(&str, Format)> = Vec::new();
    for name in checkpoint.names() {
        let Some(stem) = name.strip_suffix(".expected") else { continue };
        let expected = read(&checkpoint, name);
        let weight = format!("{stem}.weight");
        assert_eq!(checkpoint.shape(&weight), checkpoint.shape(name), "{stem}");
        assert_eq!(read(&checkpoint, &weight), expected, "{stem}");
        // A range that starts and ends within rows.
        let mut part = vec![0.0; expected.len() - 5];
        checkpoint.read_f32(&weight, 3, &mut part).unwrap();
        assert_eq!(part, expected[3..expected.len() - 2], "{stem}");
        // As the engine would have it, without rounding.
        let format = checkpoint.info(&weight).unwrap().format;
        match checkpoint.encoded(&weight) {
            None => assert_eq!(format, Format::F32, "{stem}"),
            Some(encoded) => {
                let encoded = encoded.unwrap();
                assert_eq!(encoded.format, format, "{stem}");
                assert_eq!(checkpoint.block_len(&weight), Some(encoded.block_len), "{stem}");
                let mut decoded = vec![0.0; expected.len()];
                encoded.decode(&mut decoded).unwrap();
                assert_eq!(decoded, expected, "{stem}");
            }
        }
        found.push((stem, format));
    }
    found.sort_unstable();
    assert_eq!(found, formats);
}

#[test]
fn gptq_awq_model_optimizer_and_fp8() {
    check(
        "quantized.safetensors",
        &[
            ("awq", Format::F32),
            ("fp8_blocks", Format::F32),
            ("fp8_e5m2", Format::Fp8E5m2),
            ("fp8_rows", Format::Fp8E4m3),
            ("fp8_tensor", Format::Fp8E4m3),
            ("gptq", Format::F32),
            ("gptq_act_order", Format::F32),
            ("gptq_bare", Format::F32),
            ("gptq_int2", Format::F32),
            ("gptq_int8", Format::F32),
            ("gptq_symmetric", Format::Int4),
            ("modelopt_nvfp4", Format::Nvfp4),
        ],
    );
    // What is not quantized stands for itself.
    let checkpoint = open("quantized.safetensors");
    assert_eq!(read(&checkpoint, "plain.weight"), [1.0; 4]);
    assert_eq!(read(&checkpoint, "modelopt_nvfp4.input_scale"), [0.1]);
    assert!(checkpoint.shape("gptq.qweight").is_none());
}

#[test]
fn what_compressed_tensors_writes() {
    check(
        "compressed_tensors.safetensors",
        &[
            ("fp8_block", Format::F32),
            ("fp8_channel", Format::Fp8E4m3),
            ("int4_channel", Format::Int4),
            ("int4_group", Format::Int4),
            ("int4_group_asymmetric", Format::F32),
            ("int4_group_bf16", Format::Int4),
            ("int8_channel", Format::Int8),
            ("int8_channel_asymmetric", Format::F32),
            ("int8_group", Format::F32),
            ("int8_packed", Format::F32),
            ("int8_tensor", Format::Int8),
            ("mxfp4", Format::Mxfp4),
            ("nvfp4", Format::Nvfp4),
        ],
    );
}

/// A file of these tensors; `fill` is every byte of it.
fn file(tensors: &[(&str, Dtype, &[usize])], fill: u8) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, shape)| vec![fill; shape.iter().product::<usize>() * dtype.bitsize() / 8])
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn parts_that_do_not_fit_get_one_sentence() {
    use Dtype::{BF16, F8_E4M3, F32, I8, I32, I64, U8};
    type Parts<'a> = &'a [(&'a str, Dtype, &'a [usize])];
    let cases: &[(Parts<'_>, &str)] = &[
        (&[("m.weight", I8, &[2, 4])], "there is no `m.weight_scale`"),
        (&[("m.weight", I8, &[8]), ("m.weight_scale", F32, &[1])], "has shape [8], expected two sizes"),
        (&[("m.weight", I8, &[0, 4]), ("m.weight_scale", F32, &[1])], "has shape [0, 4]"),
        (&[("m.weight", I8, &[2, 4]), ("m.weight_scale", I32, &[2, 1])], "scales are stored as I32"),
        (&[("m.weight", I8, &[2, 4]), ("m.weight_scale", F32, &[3, 1])], "which does not divide [2, 4]"),
        (&[("m.weight", I8, &[2, 4]), ("m.weight_scale", F32, &[0, 0])], "which does not divide [2, 4]"),
        (
            &[("m.weight", F8_E4M3, &[2, 40]), ("m.weight_scale", U8, &[2, 1])],
            "have shape [2, 1], expected [2, 2]",
        ),
        (
            &[
                ("m.weight", U8, &[2, 16]),
                ("m.weight_scale", F8_E4M3, &[2, 2]),
                ("m.weight_scale_2", F32, &[2]),
            ],
            "not one positive f32",
        ),
        (
            &[("m.weight_packed", F32, &[2, 16]), ("m.weight_scale", F32, &[2, 2])],
            "stored as F32, expected I32 or U8",
        ),
        (&[("m.weight_packed", I32, &[2, 2]), ("m.weight_scale", F32, &[2, 1])], "no `m.weight_shape`"),
        (
            &[
                ("m.weight_packed", I32, &[2, 2]),
                ("m.weight_scale", F32, &[2, 1]),
                ("m.weight_shape", I64, &[2]),
            ],
            "`weight_shape` says [72340172838076673, 72340172838076673] for 2 rows",
        ),
        (&[("m.qweight", I32, &[4, 8]), ("m.scales", BF16, &[1, 8])], "no `m.qzeros`"),
        (
            &[("m.qweight", I32, &[4, 8]), ("m.scales", F32, &[1, 8]), ("m.qzeros", I32, &[1, 3])],
            "neither 2, 4 nor 8 bits",
        ),
        (
            &[("m.qweight", I32, &[4, 8]), ("m.scales", F32, &[5, 8]), ("m.qzeros", I32, &[5, 1])],
            "5 groups do not divide 32 columns",
        ),
        (
            &[
                ("m.qweight", I32, &[4, 8]),
                ("m.scales", F32, &[4, 8]),
                ("m.qzeros", I32, &[4, 1]),
                ("m.g_idx", I32, &[32]),
            ],
            "a column is in group 16843009 of 4",
        ),
    ];
    for (tensors, expected) in cases {
        let got = Checkpoint::from_bytes("x", file(tensors, 1)).unwrap_err().to_string();
        assert!(got.contains(expected), "{got} should contain: {expected}");
        assert!(got.contains(tensors[0].0) && !got.contains('\n'), "{got}");
    }
}

/// The engine's fp8 has no zero point, so such a matrix is read as what it means, and not used as it is stored.
#[test]
fn zero_points_of_fp8_count() {
    for dtype in [Dtype::F8_E4M3, Dtype::F8_E5M2] {
        // One in E4M3, a half in E5M2.
        let parts: &[(&str, Dtype, &[usize])] = &[
            ("a.weight", dtype, &[2, 3]),
            ("a.weight_scale", Dtype::F32, &[1]),
            ("a.weight_zero_point", Dtype::I8, &[1]),
        ];
        let checkpoint = Checkpoint::from_bytes("x", file(parts, 0x38)).unwrap();
        let code = if dtype == Dtype::F8_E4M3 { 1.0 } else { 0.5 };
        let expected = (code - f32::from(0x38u8)) * f32::from_le_bytes([0x38; 4]);
        assert_eq!(read(&checkpoint, "a.weight"), [expected; 6]);
        assert!(checkpoint.encoded("a.weight").is_none());
    }
}

#[test]
fn scales_that_are_no_numbers_are_found() {
    let parts: &[(&str, Dtype, &[usize])] =
        &[("m.weight", Dtype::F8_E4M3, &[2, 64]), ("m.weight_scale", Dtype::F32, &[2, 1])];
    for (fill, is_damaged) in [(0x11, false), (0xFF, true)] {
        let checkpoint = Checkpoint::from_bytes("x", file(parts, fill)).unwrap();
        let read = checkpoint.read_f32("m.weight", 0, &mut [0.0; 64]);
        assert_eq!(read.is_err(), is_damaged);
        assert_eq!(checkpoint.encoded("m.weight").unwrap().is_err(), is_damaged);
    }
}

proptest! {
    /// Whatever the parts of a module look like: an error, or a matrix that can be read.
    #[test]
    fn arbitrary_parts_never_panic(
        parts in prop::collection::btree_map(0usize..NAMES.len(), (0usize..DTYPES.len(), 0usize..SHAPES.len()), 1..7),
        fill in any::<u8>(),
    ) {
        let parts: Vec<(&str, Dtype, &[usize])> =
            parts.iter().map(|(name, (dtype, shape))| (NAMES[*name], DTYPES[*dtype], SHAPES[*shape])).collect();
        if let Ok(checkpoint) = Checkpoint::from_bytes("x", file(&parts, fill)) {
            for name in checkpoint.names() {
                let mut values = vec![0.0; checkpoint.shape(name).unwrap().iter().product()];
                let _ = checkpoint.read_f32(name, 0, &mut values);
                let _ = checkpoint.encoded(name);
            }
        }
    }
}

const NAMES: &[&str] = &[
    "m.weight",
    "m.weight_packed",
    "m.weight_scale",
    "m.weight_scale_inv",
    "m.weight_scale_2",
    "m.weight_global_scale",
    "m.weight_zero_point",
    "m.weight_g_idx",
    "m.weight_shape",
    "m.qweight",
    "m.qzeros",
    "m.scales",
    "m.g_idx",
];
const DTYPES: &[Dtype] =
    &[Dtype::I32, Dtype::I8, Dtype::U8, Dtype::F32, Dtype::BF16, Dtype::F8_E4M3, Dtype::F8_E8M0, Dtype::I64];
const SHAPES: &[&[usize]] = &[
    &[],
    &[0],
    &[1],
    &[2],
    &[8],
    &[16],
    &[32],
    &[0, 8],
    &[1, 1],
    &[1, 2],
    &[2, 1],
    &[2, 2],
    &[8, 1],
    &[8, 2],
    &[2, 8],
    &[1, 8],
    &[4, 8],
    &[8, 8],
    &[8, 16],
    &[8, 32],
    &[2, 2, 2],
];
