"""Writes `quantized.safetensors`: matrices in the layouts of GPTQ, AWQ, NVIDIA's Model Optimizer and DeepSeek's FP8
files, packed here from their published descriptions, and what each means, `<module>.expected` [out, in] in f32.

    pip install numpy ml_dtypes safetensors && python generate.py

What compressed-tensors writes is in `compressed_tensors.safetensors`, from `generate_compressed_tensors.py`.
"""

import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
random = np.random.default_rng(20260102)
tensors = {}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def words(codes, bits, axis):
    """Unsigned codes, `32 / bits` neighbours along `axis` in each word, the first in the lowest bits."""
    per_word = 32 // bits
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1)
    codes = codes.reshape(*codes.shape[:-1], -1, per_word)
    packed = (codes << (np.arange(per_word, dtype=np.uint32) * bits)).sum(-1, dtype=np.uint32)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def gptq(name, n, k, group, bits, act_order=False, symmetric=False, g_idx=True):
    groups = k // group
    codes = random.integers(0, 1 << bits, (k, n))
    zeros = np.full((groups, n), 1 << (bits - 1)) if symmetric else random.integers(0, 1 << bits, (groups, n))
    scales = random.uniform(0.001, 0.1, (groups, n)).astype(np.float16)
    index = np.arange(k) // group
    if act_order:
        index = random.permutation(index)
    tensors[f"{name}.qweight"] = words(codes, bits, 0)
    # Stored minus one, wrapping around.
    tensors[f"{name}.qzeros"] = words((zeros - 1) % (1 << bits), bits, 1)
    tensors[f"{name}.scales"] = scales
    if g_idx:
        tensors[f"{name}.g_idx"] = index.astype(np.int32)
    values = (codes - zeros[index]).astype(np.float32) * scales[index].astype(np.float32)
    tensors[f"{name}.expected"] = np.ascontiguousarray(values.T)


def awq(name, n, k, group):
    groups = k // group
    codes, zeros = random.integers(0, 16, (k, n)), random.integers(0, 16, (groups, n))
    scales = random.uniform(0.001, 0.1, (groups, n)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(values):
        return words(values.reshape(values.shape[0], -1, 8)[:, :, order].reshape(values.shape), 4, 1)

    tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"] = packed(codes), packed(zeros)
    tensors[f"{name}.scales"] = scales
    index = np.arange(k) // group
    values = (codes - zeros[index]).astype(np.float32) * scales[index].astype(np.float32)
    tensors[f"{name}.expected"] = np.ascontiguousarray(values.T)


def fp8_codes(shape, dtype):
    return random.normal(0, 50, shape).astype(dtype)


def fp8(name, n, k, scale_shape, dtype=ml_dtypes.float8_e4m3fn, key="weight_scale", scale_dtype=np.float32):
    codes = fp8_codes((n, k), dtype)
    scales = random.uniform(0.001, 0.1, scale_shape).astype(scale_dtype)
    tensors[f"{name}.weight"], tensors[f"{name}.{key}"] = codes, scales
    wide = np.asarray(scales, np.float32)
    if wide.ndim == 2 and wide.shape[1] > 1:
        wide = wide.repeat(128, 0)[:n].repeat(128, 1)[:, :k]
    elif wide.ndim == 1 and wide.shape[0] == n:
        wide = wide.reshape(n, 1)
    tensors[f"{name}.expected"] = codes.astype(np.float32) * wide


def nvfp4(name, n, k):
    codes = random.integers(0, 16, (n, k), dtype=np.uint8)
    scales = random.uniform(1, 448, (n, k // 16)).astype(ml_dtypes.float8_e4m3fn)
    tensor_scale = np.float32(0.00037)
    tensors[f"{name}.weight"] = codes[:, 0::2] | codes[:, 1::2] << 4
    tensors[f"{name}.weight_scale"], tensors[f"{name}.weight_scale_2"] = scales, np.array(tensor_scale)
    tensors[f"{name}.input_scale"] = np.array(np.float32(0.1))
    tensors[f"{name}.expected"] = E2M1[codes] * (scales.astype(np.float32) * tensor_scale).repeat(16, 1)


gptq("gptq", 16, 32, 16, 4)
gptq("gptq_act_order", 16, 32, 8, 4, act_order=True)
gptq("gptq_symmetric", 8, 64, 32, 4, symmetric=True)
gptq("gptq_bare", 8, 32, 32, 4, g_idx=False)
gptq("gptq_int8", 8, 16, 8, 8)
gptq("gptq_int2", 16, 32, 16, 2)
awq("awq", 24, 32, 16)
fp8("fp8_tensor", 4, 6, ())
fp8("fp8_rows", 4, 6, (4, 1), scale_dtype=ml_dtypes.bfloat16)
fp8("fp8_e5m2", 4, 6, (4, 1), dtype=ml_dtypes.float8_e5m2)
fp8("fp8_blocks", 130, 257, (2, 3), key="weight_scale_inv")
nvfp4("modelopt_nvfp4", 3, 32)
tensors["plain.weight"] = np.ones((2, 2), np.float32)
save_file(tensors, HERE / "quantized.safetensors")
