"""Writes the tiny models beside this file: random weights, odd shapes, one rarer configuration key each, and what
Hugging Face transformers computes with them in f32.

    pip install torch transformers==5.23.0 && python generate.py

The layout of `golden.safetensors` is described in `models/src/golden.rs`.
"""

import copy
import json
import pathlib
import shutil

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
VOCAB = 40


def encoder(**keys):
    return dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20,
                max_position_embeddings=24) | keys


def decoder(rope=None, **keys):
    rope = dict(rope_type="default", rope_theta=10000.0) | (rope or {})
    return dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=20, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
                rope_parameters=rope) | keys


def neox(rope=None, **keys):
    keys = decoder(dict(partial_rotary_factor=0.5) | (rope or {}), **keys)
    keys.pop("num_key_value_heads")
    return keys


def distilbert(**keys):
    return dict(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=4, hidden_dim=20, max_position_embeddings=24) | keys


def gpt2(**keys):
    return dict(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0) | keys


def bloom(**keys):
    return dict(vocab_size=VOCAB, hidden_size=24, n_layer=2, n_head=6) | keys


def legacy_norms(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def without(prefix):
    return lambda name: name.removeprefix(prefix)


def transformers_4(config):
    """The spelling of transformers 4, with keys left out that it did not have."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else dict(rope, type=kind)
    config["torch_dtype"] = config.pop("dtype", None)
    for key in ("head_dim", "attention_bias", "mlp_bias", "layer_types"):
        config.pop(key, None)


def neox_4(config):
    rope = config.pop("rope_parameters")
    config["rotary_pct"], config["rotary_emb_base"] = rope["partial_rotary_factor"], int(rope["rope_theta"])
    config.pop("attention_bias")


def bloom_old(config):
    config["n_embed"], config["num_attention_heads"] = config.pop("hidden_size"), config.pop("n_head")
    config.pop("tie_word_embeddings")


def unnamed(config):
    del config["architectures"], config["model_type"]


# name, class, configuration, and optionally: rename (tensors), edit (config.json), dtype, shard.
MODELS = [
    ("bert-relu-legacy-norms", "BertForSequenceClassification",
     encoder(hidden_act="relu", layer_norm_eps=1e-3, num_labels=5, type_vocab_size=3), dict(rename=legacy_norms)),
    ("bert-unnamed", "BertForSequenceClassification", encoder(hidden_act="gelu_new"), dict(edit=unnamed)),
    ("bert-embedding-f16", "BertModel", encoder(hidden_act="quick_gelu"), dict(dtype=torch.float16)),
    ("bert-masked-lm", "BertForMaskedLM", encoder(), {}),
    ("roberta-classes", "RobertaForSequenceClassification",
     encoder(type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5), {}),
    ("roberta-embedding", "RobertaModel", encoder(type_vocab_size=1, pad_token_id=0), {}),
    ("distilbert-relu", "DistilBertForSequenceClassification", distilbert(activation="relu", num_labels=3), {}),
    ("distilbert-embedding", "DistilBertModel", distilbert(), {}),
    ("gpt2-inner-bare", "GPT2LMHeadModel", gpt2(n_inner=20, activation_function="relu"),
     dict(rename=without("transformer."))),
    ("gpt2-scaled-by-layer", "GPT2LMHeadModel", gpt2(scale_attn_by_inverse_layer_idx=True), {}),
    ("gpt2-unscaled-untied", "GPT2LMHeadModel", gpt2(scale_attn_weights=False, tie_word_embeddings=False), {}),
    ("bloom-post-norm-residual", "BloomForCausalLM", bloom(apply_residual_connection_post_layernorm=True), {}),
    ("bloom-old-keys-bare", "BloomForCausalLM", bloom(n_head=3),
     dict(rename=without("transformer."), edit=bloom_old)),
    ("gpt-neox-serial-old-keys", "GPTNeoXForCausalLM", neox(use_parallel_residual=False),
     dict(rename=lambda name: name.replace("lm_head", "embed_out"), edit=neox_4)),
    ("gpt-neox-no-bias-tied", "GPTNeoXForCausalLM",
     neox(dict(partial_rotary_factor=1.0), attention_bias=False, tie_word_embeddings=True), {}),
    ("llama-biases-head-dim", "LlamaForCausalLM",
     decoder(head_dim=6, attention_bias=True, mlp_bias=True, hidden_act="gelu"), {}),
    ("llama-tied-bf16-sharded", "LlamaForCausalLM", decoder(tie_word_embeddings=True, num_key_value_heads=1),
     dict(dtype=torch.bfloat16, shard="8KB")),
    ("llama-linear-old-keys", "LlamaForCausalLM", decoder(dict(rope_type="linear", factor=3.0)),
     dict(edit=transformers_4)),
    ("llama-llama3", "LlamaForCausalLM",
     decoder(dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=500.0,
                  original_max_position_embeddings=16)), {}),
    ("llama-dynamic", "LlamaForCausalLM", decoder(dict(rope_type="dynamic", factor=4.0)), {}),
    ("mistral-window", "MistralForCausalLM", decoder(sliding_window=4, head_dim=8), {}),
    ("mistral-no-window", "MistralForCausalLM", decoder(sliding_window=None), dict(edit=transformers_4)),
    ("qwen2-yarn-mscale", "Qwen2ForCausalLM",
     decoder(dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=0.7,
                  beta_fast=20, truncate=False)), {}),
    ("qwen2-yarn-old-keys", "Qwen2ForCausalLM",
     decoder(dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)), dict(edit=transformers_4)),
    ("qwen2-windows-by-depth", "Qwen2ForCausalLM",
     decoder(use_sliding_window=True, sliding_window=4, max_window_layers=1), dict(edit=transformers_4)),
    ("qwen2-windows-by-layer", "Qwen2ForCausalLM",
     decoder(use_sliding_window=True, sliding_window=4,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"]), {}),
]


def cases(is_causal, config):
    """Token ids, masks and token types of each case."""
    def ids(*shape):
        return torch.randint(3, VOCAB, shape)

    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    padded = ids(2, 9)
    if getattr(config, "pad_token_id", None) is not None:
        padded[mask == 0] = config.pad_token_id
    yield dict(input_ids=ids(1, 5))
    if is_causal:
        yield dict(input_ids=ids(2, 11))
    else:
        yield dict(input_ids=padded, attention_mask=mask)
        if getattr(config, "type_vocab_size", 1) > 1:
            yield dict(input_ids=ids(2, 6), token_type_ids=torch.randint(0, config.type_vocab_size, (2, 6)))


def write(seed, name, class_name, keys, rename=None, edit=None, dtype=torch.float32, shard="1GB"):
    torch.manual_seed(seed)
    model_class = getattr(hf, class_name)
    config = model_class.config_class(**keys)
    model = model_class(config).eval()
    is_causal = class_name.endswith(("CausalLM", "LMHeadModel"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            # The reference sees the weights as they are stored. Its buffers stay in f32, so the model is not converted.
            parameter.copy_(parameter.to(dtype))
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    copy.deepcopy(model).to(dtype).save_pretrained(directory, max_shard_size=shard)

    golden = {}
    for index, inputs in enumerate(cases(is_causal, config)):
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        tensors = {key: value.int() for key, value in inputs.items()}
        if hasattr(output, "logits") and not class_name.endswith("MaskedLM"):
            tensors["logits"] = output.logits
        else:
            tensors["last_hidden_state"] = output.hidden_states[-1]
        for layer, state in enumerate(output.hidden_states):
            tensors[f"hidden.{layer}"] = state
        if is_causal:
            prompt = inputs["input_ids"]
            generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16,
                                       min_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
            tensors["greedy_ids"] = generated[:, prompt.shape[1]:].int()
        golden |= {f"case{index}.{key}": value.contiguous().clone() for key, value in tensors.items()}
    save_file(golden, directory / "golden.safetensors")

    (directory / "generation_config.json").unlink(missing_ok=True)
    if rename:
        path = directory / "model.safetensors"
        save_file({rename(key): value for key, value in load_file(path).items()}, path)
    if edit:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config, indent=2) + "\n")


for seed, (name, class_name, keys, how) in enumerate(MODELS):
    write(seed, name, class_name, keys, **how)
