"""What is compared with what: one entry for each row of the table."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEP_TIME = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "step_time"

PROMPT, NEW = 128, 32


def run(*command):
    """Runs a program to its end and returns the JSON on the last line of its output."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def made(path, script, *words):
    """The model file, written first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        subprocess.run([sys.executable, HERE / script, unfinished, *words], check=True)
        unfinished.rename(path)
    return path


@dataclass
class Comparison:
    """`ours(threads)` is phases by name, `peers[name](threads, cache, ours)` seconds of each run by phase."""

    short: str
    title: str
    ours: Callable
    peers: dict[str, Callable]
    # Only at so many threads.
    threads: int | None = None
    # Those to show; empty: all that both sides have.
    phases: list[str] = field(default_factory=list)


def ours(what, *words, batch=1, isa=None, everywhere=False):
    options = ["--batch", batch] + (["--isa", isa] if isa else []) + (["--everywhere"] if everywhere else [])
    return lambda threads: run(STEP_TIME, what, *words, "--threads", threads, *options)["phases"]


def read(phase):
    """The bytes of our run, read from memory and nothing else: the least time they can take."""

    def measure(threads, cache, own):
        times = run(STEP_TIME, "read", int(own[phase]["bytes"]), 30, "--threads", threads)
        return {phase: times["phases"]["read"]["times_s"]}

    return measure


def llama_cpp(model, kind, runs, flash_attention="off"):
    def measure(threads, cache, own):
        path = made(cache / f"{model}_{kind}.gguf", "random_gguf.py", model, kind)
        times = run(sys.executable, HERE / "run_llama_cpp.py", path, threads, PROMPT, NEW, runs, flash_attention)
        return {name: times[f"{name}_s"] for name in ("prefill", "decode")}

    return measure


def onnxruntime(graph, batch=1, tiles=True):
    def measure(threads, cache, own):
        if graph == "int8":
            plain = made(cache / "distilbert_plain.onnx", "distilbert_onnx.py", "plain")
            model = made(cache / "distilbert_int8.onnx", "quantize_onnx.py", plain)
        else:
            model = made(cache / f"distilbert_{graph}.onnx", "distilbert_onnx.py", graph)
        program = [] if tiles else [HERE / "without_tiles.py"]
        words = [HERE / "run_onnxruntime.py", model, threads, batch, PROMPT, 60 // batch]
        return {"forward": run(sys.executable, *program, *words)}

    return measure


def torch(phase, what, *words):
    def measure(threads, cache, own):
        return {phase: run(sys.executable, HERE / "run_torch.py", what, threads, *words)}

    return measure


def decode(model, title, kind, strategy, runs):
    return Comparison(
        f"{model}-{strategy}",
        f"{title}, {strategy} everywhere, {NEW} tokens behind {PROMPT}",
        ours("generate", f"synth:{'gpt2' if model == 'gpt2' else 'tinyllama-1.1b'}", strategy, PROMPT, NEW, runs, everywhere=True),
        {f"llama.cpp {kind}": llama_cpp(model, kind, runs), "reading the same bytes": read("decode")},
        phases=["decode"],
    )


INT8 = {batch: ours("forward", "synth:distilbert-base", "int8-dynamic", PROMPT, 60 // batch, batch=batch) for batch in (1, 8)}
BF16 = {batch: ours("forward", "synth:distilbert-base", "bf16", PROMPT, 60 // batch, batch=batch) for batch in (1, 8)}
VNNI = ours("forward", "synth:distilbert-base", "int8-dynamic", PROMPT, 60, isa="avx512-vnni")

COMPARISONS = [
    *(
        decode(model, title, kind, strategy, runs)
        for model, title, runs in (("gpt2", "GPT-2 small", 3), ("tinyllama", "TinyLlama-1.1B", 1))
        for kind, strategy in (("Q8_0", "int8-weight"), ("Q8_0", "int8-dynamic"), ("Q4_0", "int4"), ("MXFP4", "mxfp4"))
    ),
    Comparison(
        "gpt2-prefill",
        f"GPT-2 small, int8-dynamic everywhere, prompt of {PROMPT}",
        ours("generate", "synth:gpt2", "int8-dynamic", PROMPT, 1, 20, everywhere=True),
        {
            "llama.cpp Q8_0": llama_cpp("gpt2", "Q8_0", 5),
            "llama.cpp Q8_0, flash attention": llama_cpp("gpt2", "Q8_0", 5, "on"),
            "torch dynamic int8, onednn": torch("prefill", "gpt2-int8", "onednn", PROMPT, 20),
            "torch dynamic int8, x86": torch("prefill", "gpt2-int8", "x86", PROMPT, 20),
        },
        phases=["prefill"],
    ),
    *(
        Comparison(
            f"distilbert-int8-{batch}",
            f"DistilBERT-base int8-dynamic, {batch} x {PROMPT} tokens",
            INT8[batch],
            {"onnxruntime QInt8 per channel": onnxruntime("int8", batch)},
        )
        for batch in (1, 8)
    ),
    *(
        Comparison(
            f"distilbert-bf16-{batch}",
            f"DistilBERT-base bf16, {batch} x {PROMPT} tokens",
            BF16[batch],
            {"torch.compile bf16": torch("forward", "distilbert-bf16", batch, PROMPT, 60 // batch)},
        )
        for batch in (1, 8)
    ),
    Comparison(
        "product-int8",
        "int8 product 512 x 4096 x 4096, inputs rounded per row",
        ours("product", "int8", 512, 4096, 4096, 30),
        {"torch dynamic int8, onednn": torch("product", "product-int8", "onednn", 512, 4096, 4096, 30)},
        threads=1,
    ),
    Comparison(
        "vnni",
        f"DistilBERT-base int8-dynamic without tiles, 1 x {PROMPT} tokens",
        VNNI,
        {"onnxruntime QInt8 per channel, refused tiles": onnxruntime("int8", tiles=False)},
    ),
    Comparison(
        "distilbert",
        f"DistilBERT-base f32, 1 x {PROMPT} tokens",
        ours("forward", "synth:distilbert-base", "fp32", PROMPT, 60),
        {
            "onnxruntime, exported graph": onnxruntime("plain"),
            "onnxruntime, fused attention": onnxruntime("fused"),
        },
    ),
    Comparison(
        "gpt2-f16",
        f"GPT-2 small f16, {NEW} tokens behind {PROMPT}",
        ours("generate", "synth:gpt2", "fp16", PROMPT, NEW, 5),
        {
            "llama.cpp": llama_cpp("gpt2", "F16", 5),
            "llama.cpp, flash attention": llama_cpp("gpt2", "F16", 5, "on"),
        },
    ),
]
