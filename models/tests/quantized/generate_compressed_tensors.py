"""Writes `compressed_tensors.safetensors`: matrices as the compressed-tensors library compresses them, and what it
decompresses them to, `<module>.expected`.

    pip install torch compressed-tensors==0.20.0 safetensors && python generate_compressed_tensors.py
"""

import pathlib

import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

torch.manual_seed(20260103)
tensors = {}


def add(name, compressor, shape, scale_shape, zero_point=None, scale_dtype=torch.float32, scale=None, **arguments):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
    state = {"weight": torch.randn(shape), "weight_scale": torch.rand(scale_shape).add(0.1).div(8).to(scale_dtype)}
    if scale is not None:
        state["weight_scale"] = scale
    if zero_point is not None:
        state["weight_zero_point"] = zero_point
    if compressor is NVFP4PackedCompressor:
        # The scale of the matrix divides. A power of two makes no difference to multiplying.
        state["weight_global_scale"] = torch.tensor([512.0])
        state["weight_scale"] = torch.rand(scale_shape).mul(200).to(torch.float8_e4m3fn).float()
    compressed = compressor.compress(state, scheme)
    wide = dict(compressed)
    if scale_dtype == torch.float16:
        # The library rounds the weights to the format of the scales.
        wide["weight_scale"] = wide["weight_scale"].float()
    expected = compressor.decompress(wide, scheme)["weight"].float()
    for key, value in compressed.items():
        tensors[f"{name}.{key}"] = value.detach().contiguous()
    tensors[f"{name}.expected"] = expected.contiguous()


naive, packed = NaiveQuantizationCompressor, PackedQuantizationCompressor
add("int8_channel", naive, (6, 10), (6, 1), num_bits=8, type="int", strategy="channel")
add("int8_tensor", naive, (6, 10), (1,), num_bits=8, type="int", strategy="tensor")
add("int8_channel_asymmetric", naive, (6, 10), (6, 1), num_bits=8, type="int", strategy="channel", symmetric=False,
    zero_point=torch.randint(-40, 40, (6, 1), dtype=torch.int8))
add("int8_group", naive, (6, 32), (6, 2), num_bits=8, type="int", strategy="group", group_size=16)
add("fp8_channel", naive, (6, 10), (6, 1), num_bits=8, type="float", strategy="channel")
add("fp8_block", naive, (130, 260), (2, 3), num_bits=8, type="float", strategy="block", block_structure=[128, 128])
add("int4_group", packed, (6, 64), (6, 4), num_bits=4, type="int", strategy="group", group_size=16,
    scale_dtype=torch.float16)
add("int4_group_bf16", packed, (6, 64), (6, 2), num_bits=4, type="int", strategy="group", group_size=32,
    scale=torch.rand(6, 2).add(0.5).bfloat16().float())
add("int4_group_asymmetric", packed, (10, 64), (10, 4), num_bits=4, type="int", strategy="group", group_size=16,
    symmetric=False, zero_point=torch.randint(-8, 8, (10, 4), dtype=torch.int8))
add("int4_channel", packed, (6, 26), (6, 1), num_bits=4, type="int", strategy="channel", scale_dtype=torch.float16)
add("int8_packed", packed, (6, 20), (6, 1), num_bits=8, type="int", strategy="channel")
add("nvfp4", NVFP4PackedCompressor, (6, 64), (6, 4), num_bits=4, type="float", strategy="tensor_group",
    group_size=16)
add("mxfp4", MXFP4PackedCompressor, (6, 64), (6, 2), num_bits=4, type="float", strategy="group", group_size=32,
    scale=2.0 ** torch.randint(-5, 1, (6, 2)).float())
save_file(tensors, pathlib.Path(__file__).parent / "compressed_tensors.safetensors")
