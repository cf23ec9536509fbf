//! What `export` writes loads back as it was written, and means what the engine's own rounding means.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use std::path::{Path, PathBuf};

use joulewise_engine::{
    CpuBackend, ForwardOptions, PrecisionPlan, Session, SessionOptions, Strategy, TokenBatch, WeightReader,
};
use joulewise_models::{Format, LoadedModel, ModelSpec, export, load};

/// A directory that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("joulewise-export-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }

    fn open(&self) -> LoadedModel {
        load(&ModelSpec::Directory(self.0.clone())).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(name: &str) -> LoadedModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    load(&ModelSpec::parse(path.to_str().unwrap()).unwrap()).unwrap()
}

fn logits(model: &LoadedModel, strategy: Strategy) -> Vec<f32> {
    let (backend, plan) = (CpuBackend::new(1), strategy.into());
    let weights = model.weights.as_ref();
    let options = SessionOptions::default();
    let mut session = Session::open(&backend, model.graph.clone(), weights, &plan, options).unwrap();
    let batch = TokenBatch::single(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
    session.forward_with(&batch, ForwardOptions::default()).unwrap().data.to_vec()
}

/// One of each layout of weights: `[out, in]`, `[in, out]`, heads interleaved; and a GGUF file, which has another than
/// its family.
const MODELS: &[&str] = &[
    "golden/llama-llama3",
    "golden/gpt2-scaled-by-layer",
    "golden/bloom-post-norm-residual",
    "golden/bert-relu-legacy-norms",
    "gguf/gpt2-scaled-by-layer.gguf",
];

const STRATEGIES: &[Strategy] = &[
    Strategy::Fp32,
    Strategy::Bf16,
    Strategy::Int8Dynamic,
    Strategy::Int8Weight,
    Strategy::Fp8,
    Strategy::Fp8E5m2Weight,
    Strategy::Int4,
    Strategy::Mxfp4,
    Strategy::Nvfp4,
];

#[test]
fn what_is_written_loads_back_bit_by_bit() {
    for name in MODELS {
        let model = open(name);
        for strategy in STRATEGIES.iter().copied() {
            let (first, second) = (Scratch::new("first"), Scratch::new("second"));
            let plan = PrecisionPlan::from(strategy);
            export(&model, &plan, &first.0, |_, _| {}).unwrap();
            let written = first.open();
            let formats = plan.weight_formats(&written.graph);
            for (spec, format) in written.graph.weights.iter().zip(formats.iter()) {
                // Every matrix that should be quantized is, and loads without being rounded.
                let reader = WeightReader::open(written.weights.as_ref(), spec).unwrap();
                let is_quantized = reader.encoded(*format).unwrap().is_some();
                let is_matrix = !matches!(spec.shape, joulewise_engine::WeightShape::Vector { .. });
                assert_eq!(is_quantized, is_matrix && !format.is_float(), "{name} {strategy} {}", spec.name);
            }
            // A copy of the copy is the same file: nothing is rounded twice.
            export(&written, &plan, &second.0, |_, _| {}).unwrap();
            for file in ["model.safetensors", "config.json"] {
                let read = |scratch: &Scratch| std::fs::read(scratch.0.join(file)).unwrap();
                assert!(read(&first) == read(&second), "{name} {strategy}: {file} differs");
            }
            let (got, expected) = (logits(&written, strategy), logits(&model, strategy));
            assert!(got.iter().all(|value| value.is_finite()));
            match strategy {
                // Rounded as the engine rounds, so everything behind is equal, too.
                Strategy::Int4 | Strategy::Nvfp4 => {}
                _ => assert_eq!(got, expected, "{name} {strategy}"),
            }
        }
    }
}

#[test]
fn four_bit_formats_with_rules_of_the_file_stay_close_to_the_engine() {
    // Integers may get shorter blocks, which are finer; the scale of an nvfp4 matrix may differ by a rounding of its
    // reciprocal. So the error of the file is at most a little above the engine's own.
    let model = open("golden/llama-llama3");
    for (strategy, format) in [(Strategy::Int4, Format::Int4), (Strategy::Nvfp4, Format::Nvfp4)] {
        let scratch = Scratch::new(strategy.name());
        export(&model, &strategy.into(), &scratch.0, |_, _| {}).unwrap();
        let written = scratch.open();
        for spec in model.graph.weights.iter().filter(|spec| spec.name.contains("proj")) {
            let read = |model: &LoadedModel| {
                let mut values = vec![0.0; spec.shape.elements()];
                model.weights.read(&spec.name, 0, &mut values).unwrap();
                values
            };
            let (original, got) = (read(&model), read(&written));
            let norm = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let error: Vec<f32> = original.iter().zip(&got).map(|(a, b)| a - b).collect();
            assert!(norm(&error) / norm(&original) <= format.spec().nmse_bound, "{strategy} {}", spec.name);
        }
    }
}

#[test]
fn configuration_says_what_compressed_tensors_expects() {
    let scratch = Scratch::new("config");
    let model = open("golden/llama-llama3");
    let rules = vec![("model.layers.0.mlp.*".to_owned(), Strategy::Int4)];
    let plan = PrecisionPlan { rules, ..Strategy::Int8Dynamic.into() };
    let exported = export(&model, &plan, &scratch.0, |_, _| {}).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scratch.0.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "llama");
    let quantization = &config["quantization_config"];
    assert_eq!(quantization["quant_method"], "compressed-tensors");
    assert_eq!(quantization["format"], "mixed-precision");
    assert_eq!(quantization["ignore"], serde_json::json!(["lm_head"]));
    let groups = quantization["config_groups"].as_object().unwrap();
    let formats: Vec<&str> = groups.values().map(|group| group["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["int-quantized", "pack-quantized"]);
    assert_eq!(groups["group_0"]["input_activations"]["strategy"], "token");
    assert_eq!(groups["group_1"]["targets"][0], "model.layers.0.mlp.gate_proj");
    let matrices: Vec<(Format, usize)> =
        exported.formats.iter().map(|(format, count, _)| (*format, *count)).collect();
    assert_eq!(matrices, [(Format::F16, 2), (Format::Int8, 18), (Format::Int4, 3)]);
    assert_eq!(std::fs::metadata(scratch.0.join("model.safetensors")).unwrap().len(), exported.size_bytes);
}

#[test]
fn nothing_is_overwritten_and_nothing_impossible_is_begun() {
    let scratch = Scratch::new("refused");
    let model = open("golden/llama-llama3");
    let refused =
        |strategy: Strategy| export(&model, &strategy.into(), &scratch.0, |_, _| {}).unwrap_err().to_string();
    assert!(refused(Strategy::Nf4).contains("cannot be written in nf4"));
    assert!(!scratch.0.exists());
    std::fs::create_dir_all(&scratch.0).unwrap();
    std::fs::write(scratch.0.join("precious"), "").unwrap();
    assert!(refused(Strategy::Int8Weight).contains("is not empty"));
}
