"""Reads what `joulewise quantize` wrote with Python's safetensors and compressed-tensors, and compares every matrix with
the original's.

    pip install torch compressed-tensors==0.20.0 safetensors
    python read_export.py ORIGINAL-DIRECTORY QUANTIZED-DIRECTORY
"""

import json
import pathlib
import sys

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import load_file

# Bounds on |difference|^2 / |original|^2 of the formats, from the files in `kernels/src/format`.
BOUNDS = {"int-quantized": (6 / 254) ** 2, "float-quantized": 1 / 250, "pack-quantized": 0.6,
          "mxfp4-pack-quantized": 0.27, "nvfp4-pack-quantized": 0.08}

original, quantized = (pathlib.Path(path) for path in sys.argv[1:3])
weights = {}
for file in original.glob("*.safetensors"):
    if "golden" not in file.name:
        weights |= load_file(file)
tensors = load_file(quantized / "model.safetensors")
config = json.loads((quantized / "config.json").read_text())["quantization_config"]
config.pop("quant_method")
config = QuantizationConfig.model_validate(config)


def found(name):
    bare = name.split(".", 1)[1]
    return next(weights[key] for key in (name, bare) if key in weights)


worst = {}
for group in config.config_groups.values():
    compressor = BaseCompressor.get_value_from_registry(group.format)
    for module in group.targets:
        state = {key.removeprefix(f"{module}."): value for key, value in tensors.items()
                 if key.startswith(f"{module}.") and not key.endswith(".bias")}
        scheme = QuantizationScheme(**dict(group, targets=["Linear"]))
        weight = compressor.decompress(state, scheme)["weight"].float()
        expected = found(f"{module}.weight").float()
        if ".c_" in module:
            expected = expected.T
        error = ((weight - expected).square().sum() / expected.square().sum()).item()
        assert error <= BOUNDS[group.format], (module, group.format, error)
        worst[group.format] = max(worst.get(group.format, 0), error)
for name, value in tensors.items():
    assert not value.is_floating_point() or torch.isfinite(value.float()).all(), name
print(f"{quantized}: {len(tensors)} tensors, worst NMSE", {name: f"{error:.2e}" for name, error in worst.items()})
