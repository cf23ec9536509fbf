"""Reads what `joulewise quantize` writes with Python's safetensors, and holds every quantized matrix, byte by byte,
against the definitions of `kernels/tests/oracle/formats.py`.

    pip install numpy ml_dtypes safetensors
    python check_export.py target/debug/joulewise

`read_export.py` does the same through the compressed-tensors library, which needs torch.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import safetensors

ROOT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "kernels/tests/oracle"))
import formats  # noqa: E402

MODELS = ["models/demo/gpt2-wikitext2-mini", "models/demo/distilbert-sst2-mini", "models/tests/golden/llama-llama3",
          "models/tests/golden/bloom-old-keys-bare"]
STRATEGIES = {"int8-dynamic": "int8", "fp8": "fp8_e4m3", "fp8-e5m2-weight": "fp8_e5m2", "int4": "int4",
              "mxfp4": "mxfp4", "nvfp4": "nvfp4"}
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read(path):
    """Name to (dtype, shape, bytes)."""
    return {name: (entry["dtype"], entry["shape"], bytes(entry["data"]))
            for name, entry in safetensors.deserialize(path.read_bytes())}


def original(tensors, module):
    """The weight [out, in] in f32 of a module, whose name may lack the first part in the file."""
    for name in (f"{module}.weight", f"{module}.weight".split(".", 1)[1]):
        if name in tensors:
            dtype, shape, data = tensors[name]
            values = np.frombuffer(data, FLOATS[dtype]).reshape(shape).astype(np.float32)
            # GPT-2 keeps its matrices [in, out].
            return np.ascontiguousarray(values.T) if ".c_" in module else values
    raise AssertionError(f"{module} is not in the original")


def expected(name, values):
    """Suffix to bytes of the tensors of a matrix, as compressed-tensors lays them out."""
    n, k = values.shape
    if name == "int4":
        lengths = [length for length in range(8, 129, 8) if k % length == 0]
        codes, scales, _ = formats.encode(name, values, block=max(lengths, default=k))
        words = np.zeros((n, -(-k // 8) * 8), np.uint32)
        # Stored plus 8; two's complement and that differ in the top bit. Behind the row's end words are empty.
        words[:, :k] = codes[:, :k] ^ 8
        words = (words.reshape(n, -1, 8) << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32)
        return {"weight_packed": words, "weight_scale": scales, "weight_shape": np.array([n, k], np.int64)}
    if name == "mxfp4":
        codes, scales, _ = formats.encode(name, values)
        return {"weight_packed": formats.packed(codes[:, :k]), "weight_scale": scales}
    if name == "nvfp4":
        one = np.float32(1)
        divisor = one / formats.tensor_scale(values)
        codes, scales, _ = formats.encode(name, values, tensor=one / divisor)
        return {"weight_packed": formats.packed(codes[:, :k]), "weight_scale": scales,
                "weight_global_scale": np.array([divisor], np.float32)}
    codes, scales, _ = formats.encode(name, values)
    return {"weight": codes, "weight_scale": scales}


def check(program, model, strategy, name):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        subprocess.run([program, "quantize", str(ROOT / model), "--strategy", strategy, "--out", str(out)], check=True,
                       stdout=subprocess.DEVNULL)
        tensors = read(out / "model.safetensors")
        originals = {}
        for file in (ROOT / model).glob("model*.safetensors"):
            originals |= read(file)
        config = json.loads((out / "config.json").read_text())["quantization_config"]
        modules = [module for group in config["config_groups"].values() for module in group["targets"]]
        assert modules, f"{model} in {strategy}: nothing is quantized"
        for module in modules:
            for suffix, values in expected(name, original(originals, module)).items():
                got = tensors[f"{module}.{suffix}"][2]
                assert got == values.tobytes(), f"{model} in {strategy}: {module}.{suffix} differs"
    return len(modules)


for strategy, name in STRATEGIES.items():
    counts = [check(sys.argv[1], model, strategy, name) for model in MODELS]
    print(f"{strategy}: {sum(counts)} matrices of {len(MODELS)} models, byte by byte")
