"""Writes the GGUF files beside this one with gguf-py: the tiny models of `tests/golden` converted as llama.cpp's
`convert_hf_to_gguf.py` does, each with a small tokenizer, and one file of every block type with its decoded values.

    pip install numpy gguf==0.19.0 && python generate.py
"""

import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"


def tensors(name):
    """Name to (dtype, array) of a model of `tests/golden`; bf16 as its upper halves."""
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    found = {}
    for path in sorted((GOLDEN / name).glob("model*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        header.pop("__metadata__", None)
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            values = np.frombuffer(data[8 + length + start:8 + length + end], kinds[entry["dtype"]])
            found[key] = entry["dtype"], values.reshape(entry["shape"])
    return found


def permuted(rows, heads):
    """llama.cpp rotates neighbouring dimensions."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(rope, head_dim):
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factor, trained = rope["factor"], rope["original_max_position_embeddings"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < trained / high:
            divisors.append(1)
        elif wavelength > trained / low:
            divisors.append(factor)
        else:
            smooth = (trained / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def add(writer, name, dtype, values):
    if dtype == "BF16":
        writer.add_tensor(name, np.ascontiguousarray(values).view(np.uint8), raw_dtype=Type.BF16)
    else:
        writer.add_tensor(name, np.ascontiguousarray(values))


def add_scored_pairs(writer, size):
    """Texts are covered by bytes; "▁the" and "▁cat" by merges whose order the scores decide."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "t", "h", "e", "c", "a", "th", "he", "▁th", "▁the", "at", "▁c", "▁cat",
              "ca"]
    scores = [0, 0, 0, -20, -21, -22, -23, -24, -25, -2, -1, -3, -4, -6, -7, -8, -5]
    kinds = [2, 3, 3] + [1] * (len(pieces) - 3)
    for byte in b"dog \n" + "é".encode():
        pieces.append(f"<0x{byte:02X}>")
        scores.append(0)
        kinds.append(6)
    while len(pieces) < size:
        pieces.append(f"<unused{len(pieces)}>")
        scores.append(-1000)
        kinds.append(5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([float(score) for score in scores])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def add_byte_pairs(writer, size, pre, end="<|endoftext|>"):
    pieces = [end] + list("Ġabcdehot123") + ["he", "Ġt", "Ġthe", "at", "cat", "12"]
    kinds = [3] + [1] * (len(pieces) - 1)
    while len(pieces) < size:
        pieces.append(f"[PAD{len(pieces)}]")
        kinds.append(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(["h e", "Ġ t", "Ġt he", "a t", "c at", "1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def add_word_pieces(writer, size):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁un", "able", "aff", "▁,", "▁runs"]
    kinds = [3] * 5 + [1] * 5
    while len(pieces) < size:
        pieces.append(f"▁unused{len(pieces)}")
        kinds.append(1)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    writer.add_key_value("tokenizer.ggml.cls_token_id", 2, gguf.GGUFValueType.UINT32)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(name, arch):
    """Llama and Qwen2: the same names; the rows of queries and keys in another order for Llama."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or dict(config.get("rope_scaling") or {}, rope_theta=config["rope_theta"])
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, config["hidden_size"] // heads))
    if arch == "qwen2":
        add_byte_pairs(writer, config["vocab_size"], "qwen2")
    else:
        add_scored_pairs(writer, config["vocab_size"])
    parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down"}
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, (dtype, values) in tensors(name).items():
        stem, ending = name.rsplit(".", 1)
        if stem in outer:
            stem = outer[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{parts[part]}"
        if arch == "llama" and "attn_q" in stem:
            values = permuted(values, heads)
        if arch == "llama" and "attn_k" in stem:
            values = permuted(values, kv_heads)
        add(writer, f"{stem}.{ending}", dtype, values)
    write(writer)


def gpt2(name):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    width = config["n_embd"]
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    add_byte_pairs(writer, config["vocab_size"], "gpt-2")
    parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
             "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    outer = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    for name, (dtype, values) in tensors(name).items():
        stem, ending = name.removeprefix("transformer.").rsplit(".", 1)
        if stem in outer:
            stem = outer[stem]
        else:
            _, layer, part = stem.split(".", 2)
            if part.startswith(("attn", "mlp")) and ending == "weight":
                values = values.T
            if part == "attn.c_attn" and config["scale_attn_by_inverse_layer_idx"]:
                # No such setting is in the format; dividing the queries by a power of two is exact.
                values = values.copy()
                values[:width] /= int(layer) + 1
            stem = f"blk.{layer}.{parts[part]}"
        add(writer, f"{stem}.{ending}", dtype, values)
    write(writer)


def bert(name):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    add_word_pieces(writer, config["vocab_size"])
    parts = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
             "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
             "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
    outer = {"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
             "embeddings.position_embeddings": "position_embd", "embeddings.LayerNorm": "token_embd_norm"}
    for name, (dtype, values) in tensors(name).items():
        stem, ending = name.removeprefix("bert.").rsplit(".", 1)
        if stem in outer:
            stem = outer[stem]
        elif stem.startswith("encoder.layer."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{parts[part]}"
        else:
            continue
        add(writer, f"{stem}.{ending}", dtype, values)
    write(writer)


def blocks():
    """Random blocks of every type, and what gguf-py decodes them to."""
    random = np.random.default_rng(20260101)
    writer = gguf.GGUFWriter(HERE / "blocks.gguf", "llama")
    # Bytes of a block that are f16 scales, which must stay finite.
    scales = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
              Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.MXFP4: []}
    for kind, places in scales.items():
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, per_row = 3, 256 // elements * 2
        data = random.integers(0, 256, (rows * per_row, size), dtype=np.uint8)
        for place in places:
            halves = random.normal(0, 1, rows * per_row).astype(np.float16)
            # Subnormal and zero scales are scales, too.
            halves[:3] = [0.0, 6e-8, -3e-6]
            data[:, place:place + 2] = halves.reshape(-1, 1).view(np.uint8)
        if kind == Type.MXFP4:
            # Every exponent but NaN; products beyond f32 are left out.
            data[:, 0] = np.linspace(0, 250, rows * per_row).astype(np.uint8)
        data = data.reshape(rows, per_row * size)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.decoded", gguf.quants.dequantize(data, kind))
    write(writer)


for golden in ("llama-llama3", "llama-linear-old-keys", "llama-tied-bf16-sharded"):
    llama(golden, "llama")
llama("qwen2-yarn-old-keys", "qwen2")
gpt2("gpt2-scaled-by-layer")
bert("bert-masked-lm")
blocks()
