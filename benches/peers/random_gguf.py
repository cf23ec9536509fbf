"""Writes language models as GGUF: real shapes, random weights, every matrix in one format.

usage: random_gguf.py OUT.gguf {gpt2|tinyllama} {F16|Q8_0|Q4_0|MXFP4}

The matrices of one shape hold the same values: their time does not depend on them, and encoding is slow.
"""

import functools
import sys

import gguf
import numpy as np

VOCABULARY = {"gpt2": 50257, "tinyllama": 32000}


class Writer:
    def __init__(self, path, architecture, kind):
        self.kind = gguf.GGMLQuantizationType[kind]
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.gguf.add_tokenizer_model("no_vocab")
        self.encoded = functools.cache(self.encode)

    def encode(self, n, k):
        values = np.random.default_rng(0).standard_normal((n, k), dtype=np.float32) * 0.02
        return gguf.quants.quantize(values, self.kind)

    def matrix(self, name, n, k):
        self.gguf.add_tensor(f"{name}.weight", self.encoded(n, k), raw_dtype=self.kind)

    def vector(self, name, length, value):
        self.gguf.add_tensor(name, np.full(length, value, np.float32))

    def close(self):
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def gpt2(path, kind):
    layers, width, heads, d_ff, positions = 12, 768, 12, 3072, 1024
    out = Writer(path, "gpt2", kind)
    out.gguf.add_context_length(positions)
    out.gguf.add_embedding_length(width)
    out.gguf.add_block_count(layers)
    out.gguf.add_feed_forward_length(d_ff)
    out.gguf.add_head_count(heads)
    out.gguf.add_layer_norm_eps(1e-5)
    out.gguf.add_vocab_size(VOCABULARY["gpt2"])
    # The head is tied to the token table.
    out.matrix("token_embd", VOCABULARY["gpt2"], width)
    out.gguf.add_tensor("position_embd.weight", np.zeros((positions, width), np.float32))
    linears = {
        "attn_qkv": (3 * width, width),
        "attn_output": (width, width),
        "ffn_up": (d_ff, width),
        "ffn_down": (width, d_ff),
    }
    norms = ["output_norm"] + [f"blk.{i}.{name}" for i in range(layers) for name in ("attn_norm", "ffn_norm")]
    for name in norms:
        out.vector(f"{name}.weight", width, 1)
        out.vector(f"{name}.bias", width, 0)
    for layer in range(layers):
        for name, (n, k) in linears.items():
            out.matrix(f"blk.{layer}.{name}", n, k)
            out.vector(f"blk.{layer}.{name}.bias", n, 0)
    out.close()


def tinyllama(path, kind):
    layers, width, heads, kv_heads, d_ff, positions = 22, 2048, 32, 4, 5632, 2048
    kv_width = width // heads * kv_heads
    out = Writer(path, "llama", kind)
    out.gguf.add_context_length(positions)
    out.gguf.add_embedding_length(width)
    out.gguf.add_block_count(layers)
    out.gguf.add_feed_forward_length(d_ff)
    out.gguf.add_head_count(heads)
    out.gguf.add_head_count_kv(kv_heads)
    out.gguf.add_rope_dimension_count(width // heads)
    out.gguf.add_layer_norm_rms_eps(1e-5)
    out.gguf.add_vocab_size(VOCABULARY["tinyllama"])
    out.matrix("token_embd", VOCABULARY["tinyllama"], width)
    out.matrix("output", VOCABULARY["tinyllama"], width)
    out.vector("output_norm.weight", width, 1)
    linears = {
        "attn_q": (width, width),
        "attn_k": (kv_width, width),
        "attn_v": (kv_width, width),
        "attn_output": (width, width),
        "ffn_gate": (d_ff, width),
        "ffn_up": (d_ff, width),
        "ffn_down": (width, d_ff),
    }
    for layer in range(layers):
        out.vector(f"blk.{layer}.attn_norm.weight", width, 1)
        out.vector(f"blk.{layer}.ffn_norm.weight", width, 1)
        for name, (n, k) in linears.items():
            out.matrix(f"blk.{layer}.{name}", n, k)
    out.close()


if __name__ == "__main__":
    path, model, kind = sys.argv[1:]
    {"gpt2": gpt2, "tinyllama": tinyllama}[model](path, kind)
