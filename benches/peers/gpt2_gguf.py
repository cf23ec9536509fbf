"""Writes GPT-2 small as GGUF: its real shape, random f16 weights.

usage: gpt2_gguf.py OUT.gguf
"""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, D_FF, VOCABULARY, POSITIONS = 12, 768, 12, 3072, 50257, 1024


def write(path):
    random = np.random.default_rng(0)

    def matrix(n, k):
        return (random.standard_normal((n, k), dtype=np.float32) * 0.02).astype(np.float16)

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")

    def norm(name):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, np.float32))

    # The head is tied to the token table.
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH))
    writer.add_tensor("position_embd.weight", matrix(POSITIONS, WIDTH).astype(np.float32))
    norm("output_norm")
    linears = {
        "attn_qkv": (3 * WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_up": (D_FF, WIDTH),
        "ffn_down": (WIDTH, D_FF),
    }
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
        for name, (n, k) in linears.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(n, k))
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(n, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
