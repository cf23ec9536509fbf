"""The number formats a second time, on numpy and ml_dtypes, from their definitions: what the Rust code is held against.

`encode(name, values [n, k])` gives codes `[n, padded k]`, one per element, scales `[n, blocks]` in their own encoding, and
the scale of the matrix. All arithmetic is in f32, in the order that the formats prescribe.
"""

import ml_dtypes
import numpy as np

F32 = np.float32
TINY = np.finfo(np.float32).tiny
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], F32)
BLOCK = {"int4": 128, "mxfp4": 32, "nvfp4": 16, "nf4": 64}
NAMES = ["f32", "f16", "bf16", "int8", "int4", "fp8_e4m3", "fp8_e5m2", "mxfp4", "nvfp4", "nf4"]


def e4m3(values):
    """Nearest even, saturating."""
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)


def e5m2(values):
    return np.clip(values, -57344, 57344).astype(ml_dtypes.float8_e5m2)


def e2m1(values):
    """Codes; ml_dtypes rounds to the nearest even and saturates."""
    return values.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


def blocks_of(values, length):
    """[n, blocks, length], padded with zeros."""
    n, k = values.shape
    padded = np.zeros((n, -(-k // length) * length), F32)
    padded[:, :k] = values
    return padded.reshape(n, -1, length)


def row_scale(values, most):
    amax = np.abs(values).max(axis=1, keepdims=True)
    return np.where(amax == 0, F32(1), np.maximum(amax / F32(most), TINY)).astype(F32)


def tensor_scale(values):
    """What `nvfp4` multiplies the scales of all blocks by."""
    most = np.abs(values).max()
    return F32(1) if most == 0 else np.maximum(most / F32(6 * 448), TINY)


def encode(name, values, block=None, tensor=None):
    """`block` overrides the block length of `int4`, `tensor` the scale of the matrix of `nvfp4`."""
    one = F32(1)
    n = values.shape[0]
    none = np.zeros((n, 0), np.uint8)
    block = block or BLOCK.get(name)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        if name == "f32":
            return values, none, one
        if name == "f16":
            return values.astype(np.float16), none, one
        if name == "bf16":
            return values.astype(ml_dtypes.bfloat16), none, one
        if name == "int8":
            scale = row_scale(values, 127)
            return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale, one
        if name in ("fp8_e4m3", "fp8_e5m2"):
            round_to, most = (e4m3, 448) if name == "fp8_e4m3" else (e5m2, 57344)
            scale = row_scale(values, most)
            return round_to(values / scale), scale, one
        cells = blocks_of(values, block)
        amax = np.abs(cells).max(axis=2)
        if name == "int4":
            scale = np.minimum(amax / F32(7.5), F32(65504)).astype(np.float16)
            wide = scale.astype(F32)[:, :, None]
            codes = np.where(wide == 0, 0, np.clip(np.rint(cells / wide), -8, 7)).astype(np.int8) & 15
            return codes.astype(np.uint8).reshape(n, -1), scale, one
        if name == "mxfp4":
            # The smallest power of two under which nothing is clipped.
            mantissa, exponent = np.frexp(amax.astype(np.float64) / 6)
            exponent = np.where(mantissa == 0.5, exponent - 1, exponent)
            scale = np.where(amax == 0, 0, np.clip(exponent + 127, 0, 254)).astype(np.uint8)
            wide = np.ldexp(F32(1), scale.astype(np.int32) - 127).astype(F32)[:, :, None]
            return e2m1(cells / wide).reshape(n, -1), scale, one
        if name == "nvfp4":
            tensor = tensor_scale(values) if tensor is None else tensor
            scale = amax / (F32(6) * tensor)
            scale = np.where(scale == 0, one, np.clip(scale, F32(2**-9), F32(448)))
            scale = e4m3(scale)
            wide = (scale.astype(F32) * tensor)[:, :, None]
            return e2m1(cells / wide).reshape(n, -1), scale, tensor
        if name == "nf4":
            borders = (NF4[:-1] + NF4[1:]) / F32(2)
            inverse = np.where(amax == 0, F32(0), one / amax)[:, :, None]
            codes = np.searchsorted(borders, (cells * inverse).ravel(), side="left").astype(np.uint8)
            return codes.reshape(n, -1), amax, one
    raise ValueError(name)


def packed(codes):
    """Two 4-bit codes a byte, the first in the low nibble; wider ones as they are."""
    if codes.dtype == np.uint8:
        return codes[:, 0::2] | codes[:, 1::2] << 4
    return codes
