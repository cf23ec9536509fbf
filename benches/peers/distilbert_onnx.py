"""Writes DistilBERT-base for sequence classification as ONNX: its real shape, random f32 weights.

usage: distilbert_onnx.py OUT.onnx {plain|fused}

plain: the graph of an ordinary export; onnxruntime fuses what it recognises (GELU, LayerNorm, bias).
fused: attention as onnxruntime's own MultiHeadAttention operator.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS, D_FF = 6, 768, 12, 3072
VOCABULARY, POSITIONS, CLASSES = 30522, 512, 2
HEAD_DIM = WIDTH // HEADS


class Graph:
    """Nodes and weights in the order in which they are added."""

    def __init__(self):
        self.nodes, self.weights = [], []
        self.random = np.random.default_rng(0)

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, name, *shape):
        return self.weight(name, self.random.standard_normal(shape, dtype=np.float32) * 0.02)

    def node(self, op, *inputs, domain="", **attributes):
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, *values, kind=np.int64):
        name = f"constant_{len(self.weights)}"
        return self.weight(name, np.array(values if len(values) > 1 else values[0], dtype=kind))

    def shape(self, *sizes):
        return self.weight(f"shape_{len(self.weights)}", np.array(sizes, dtype=np.int64))

    def linear(self, name, x, n, k):
        weight = self.normal(f"{name}.weight", k, n)
        bias = self.normal(f"{name}.bias", n)
        return self.node("Add", self.node("MatMul", x, weight), bias)

    def norm(self, name, x):
        gain = self.weight(f"{name}.weight", np.ones(WIDTH, np.float32))
        shift = self.weight(f"{name}.bias", np.zeros(WIDTH, np.float32))
        return self.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=1e-12)

    def gelu(self, x):
        scaled = self.node("Div", x, self.constant(np.sqrt(2.0), kind=np.float32))
        one_plus = self.node("Add", self.node("Erf", scaled), self.constant(1.0, kind=np.float32))
        return self.node("Mul", self.node("Mul", x, one_plus), self.constant(0.5, kind=np.float32))

    def heads(self, x, order):
        split = self.node("Reshape", x, self.shape(0, -1, HEADS, HEAD_DIM))
        return self.node("Transpose", split, perm=order)

    def attention(self, q, k, v, fused):
        if fused:
            return self.node(
                "MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=HEADS
            )
        q, v = self.heads(q, (0, 2, 1, 3)), self.heads(v, (0, 2, 1, 3))
        q = self.node("Div", q, self.constant(np.sqrt(HEAD_DIM), kind=np.float32))
        scores = self.node("MatMul", q, self.heads(k, (0, 2, 3, 1)))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        merged = self.node("Transpose", mixed, perm=(0, 2, 1, 3))
        return self.node("Reshape", merged, self.shape(0, -1, WIDTH))


def build(fused):
    g = Graph()
    words = g.node("Gather", g.normal("word_embeddings", VOCABULARY, WIDTH), "input_ids")
    tokens = g.node("Shape", "input_ids", start=1, end=2)
    zero = g.shape(0)
    places = g.node("Slice", g.normal("position_embeddings", POSITIONS, WIDTH), zero, tokens, zero)
    x = g.norm("embeddings.norm", g.node("Add", words, places))
    for layer in range(LAYERS):
        q, k, v = (g.linear(f"{layer}.{name}", x, WIDTH, WIDTH) for name in ("q", "k", "v"))
        out = g.linear(f"{layer}.out", g.attention(q, k, v, fused), WIDTH, WIDTH)
        x = g.norm(f"{layer}.norm1", g.node("Add", out, x))
        up = g.gelu(g.linear(f"{layer}.lin1", x, D_FF, WIDTH))
        down = g.linear(f"{layer}.lin2", up, WIDTH, D_FF)
        x = g.norm(f"{layer}.norm2", g.node("Add", down, x))
    first = g.node("Gather", x, g.constant(0), axis=1)
    pooled = g.node("Relu", g.linear("pre_classifier", first, WIDTH, WIDTH))
    logits = g.linear("classifier", pooled, CLASSES, WIDTH)
    graph = helper.make_graph(
        g.nodes,
        "distilbert",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", CLASSES])],
        g.weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


if __name__ == "__main__":
    path, attention = sys.argv[1:]
    onnx.save(build(fused=attention == "fused"), path)
