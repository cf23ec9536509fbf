//! Plans in the words of other programs, against the layouts that those document.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

use joulewise_engine::{PrecisionPlan, Strategy};
use joulewise_models::recipe::{Recipe, TARGETS};
use joulewise_models::{LoadedModel, ModelSpec, load};
use serde_json::{Value, json};

fn model(name: &str) -> LoadedModel {
    load(&ModelSpec::parse(name).unwrap()).unwrap()
}

fn recipe(target: &str, model: &LoadedModel, strategy: Strategy, rules: &[(&str, Strategy)]) -> Recipe {
    let rules = rules.iter().map(|(pattern, strategy)| ((*pattern).to_owned(), *strategy)).collect();
    let plan = PrecisionPlan { rules, ..strategy.into() };
    TARGETS.iter().find(|row| row.name == target).unwrap().recipe(model, &plan).unwrap()
}

fn json_of(recipe: &Recipe) -> Value {
    serde_json::from_str(&recipe.text).unwrap()
}

/// A plan with three schemes; the table is also the head.
const MIXED: [(&str, Strategy); 4] = [
    ("transformer.h.0.mlp.c_fc", Strategy::Int8Dynamic),
    ("transformer.h.1.mlp.c_fc", Strategy::Fp8),
    ("transformer.wte", Strategy::Int8Weight),
    ("lm_head", Strategy::Int8Weight),
];

#[test]
fn compressed_tensors_groups_have_a_format_each() {
    let recipe = recipe("compressed-tensors", &model("demo:gpt2"), Strategy::Fp16, &MIXED);
    let config = &json_of(&recipe)["quantization_config"];
    assert_eq!(config["quant_method"], "compressed-tensors");
    assert_eq!(config["format"], "mixed-precision");
    let groups: Vec<&Value> = config["config_groups"].as_object().unwrap().values().collect();
    let of = |module: &str| {
        let has = |group: &&&Value| group["targets"].as_array().unwrap().contains(&json!(module));
        *groups.iter().find(has).unwrap()
    };
    let int8 = of("transformer.h.0.mlp.c_fc");
    assert_eq!((&int8["format"], &int8["weights"]["num_bits"]), (&json!("int-quantized"), &json!(8)));
    assert_eq!(int8["input_activations"]["strategy"], "token");
    let fp8 = of("transformer.h.1.mlp.c_fc");
    assert_eq!((&fp8["format"], &fp8["weights"]["type"]), (&json!("float-quantized"), &json!("float")));
    assert_eq!(of("transformer.wte")["input_activations"], Value::Null);
    assert_eq!(recipe.notes, Vec::<String>::new());
}

#[test]
fn model_optimizer_lists_layers_only_where_they_differ() {
    let model = model("demo:gpt2");
    let mixed = recipe("modelopt", &model, Strategy::Fp16, &MIXED);
    assert_eq!(
        mixed.notes,
        [
            "transformer.wte: TensorRT-LLM reads W8A16, vLLM does not",
            "transformer.h.0.mlp.c_fc: TensorRT-LLM reads W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN, vLLM does not",
        ]
    );
    let mixed = json_of(&mixed);
    let quantization = &mixed["quantization"];
    assert_eq!(mixed["producer"]["name"], "modelopt");
    assert_eq!(quantization["quant_algo"], "MIXED_PRECISION");
    assert_eq!(quantization["kv_cache_quant_algo"], Value::Null);
    let layers = quantization["quantized_layers"].as_object().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers["transformer.h.1.mlp.c_fc"], json!({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}));
    assert_eq!(layers["transformer.wte"], json!({"quant_algo": "W8A16"}));

    let one = recipe("modelopt", &model, Strategy::Fp16, &[("transformer.h.1.mlp.c_fc", Strategy::Nvfp4)]);
    let quantization = &json_of(&one)["quantization"];
    assert_eq!(
        (&quantization["quant_algo"], &quantization["group_size"]),
        (&json!("W4A16_NVFP4"), &json!(16))
    );
    let excluded = quantization["exclude_modules"].as_array().unwrap();
    assert!(
        excluded.contains(&json!("transformer.h.1.mlp.c_proj")) && quantization["quantized_layers"].is_null()
    );

    let unknown = recipe("modelopt", &model, Strategy::Fp16, &[("transformer.h.*.mlp.c_fc", Strategy::Nf4)]);
    assert_eq!(json_of(&unknown)["quantization"]["quant_algo"], Value::Null);
    assert!(unknown.notes[0].starts_with("transformer.h.0.mlp.c_fc and 3 more: no algorithm for nf4"));
}

#[test]
fn llama_quantize_gets_a_type_for_every_tensor_it_knows() {
    let recipe = recipe("llama-quantize", &model("demo:gpt2"), Strategy::Fp16, &MIXED);
    let arguments: Vec<&str> = recipe.text.lines().map(|line| line.trim().trim_end_matches(" \\")).collect();
    for expected in [
        "--token-embedding-type q8_0",
        r"--tensor-type '^blk\.0\.ffn_up\.weight$=q8_0'",
        r"--tensor-type '^blk\.1\.ffn_up\.weight$=q8_0'",
        r"--tensor-type '^blk\.3\.attn_qkv\.weight$=f16'",
        "MODEL-F16.gguf OUT.gguf q8_0",
    ] {
        assert!(arguments.contains(&expected), "{expected}: {arguments:#?}");
    }
    // Two are rounded by another rule, and one has no type of its own.
    assert!(recipe.notes.iter().any(|note| note.contains("rounds activations by its own rule")));
    assert!(recipe.notes.contains(&"transformer.h.1.mlp.c_fc: q8_0 stands in for fp8_e4m3".to_owned()));
    // Llama, whose names are others; four layers or thirty, each is anchored.
    let llama = model("synth:llama-3.1-8b");
    let recipe = self::recipe("llama-quantize", &llama, Strategy::Int4, &[("lm_head", Strategy::Int8Weight)]);
    assert!(recipe.text.contains(r"'^blk\.1\.attn_q\.weight$=q4_0'"), "{}", recipe.text);
    let error = TARGETS[2].recipe(&model("demo:distilbert"), &Strategy::Int8Weight.into()).unwrap_err();
    assert_eq!(error.to_string(), "llama-quantize knows no model of the family `distilbert`");
}
