"""Holds the encoders of joulewise-kernels against numpy and ml_dtypes, byte by byte, and computes the golden hashes of
`kernels/tests/format.rs` anew.

    pip install numpy ml_dtypes
    cargo build -p joulewise-kernels --example encode
    python check_formats.py target/debug/examples/encode
"""

import hashlib
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np

import formats


def matrices():
    """Shapes that blocks divide and that they do not, every bf16 number, zeros and the ends of the range."""
    i = np.arange(4096)
    ramp = (((i * 7919 % 1021) - 510) / 64 * 2.0 ** ((i // 16 * 5 % 13) - 6)).astype(np.float32)
    yield "ramp", ramp.reshape(8, 512)
    random = np.random.default_rng(20261121)
    for n, k in [(13, 312), (5, 1200), (7, 26), (3, 1), (64, 768)]:
        yield f"normal {n} x {k}", random.normal(0, 0.05, (n, k)).astype(np.float32)
    yield "heavy tails", (random.normal(0, 1, (32, 320)) ** 5).astype(np.float32)
    halves = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    halves[~np.isfinite(halves)] = 0
    yield "every bf16 in turn", halves.reshape(256, 256)
    yield "every bf16 mixed", random.permutation(halves).reshape(64, 1024)
    ends = np.zeros((4, 48), np.float32)
    ends[1], ends[2], ends[3, ::2] = 1e-38, 3e38, -0.0
    yield "zeros and ends", ends


def check(encoder):
    for name in formats.NAMES:
        for what, values in matrices():
            n, k = values.shape
            codes, scales, tensor = formats.encode(name, values)
            expected = formats.packed(codes).tobytes() + scales.tobytes() + np.float32(tensor).tobytes()
            got = subprocess.run([encoder, name, str(n), str(k)], input=values.tobytes(), stdout=subprocess.PIPE,
                                 check=True).stdout
            assert len(got) == len(expected), f"{name}, {what}: {len(got)} bytes, expected {len(expected)}"
            differences = [at for at, (a, b) in enumerate(zip(got, expected)) if a != b]
            assert not differences, f"{name}, {what}: bytes {differences[:5]} of {len(got)} differ"
        print(f"{name}: as numpy {np.__version__} and ml_dtypes {ml_dtypes.__version__} have it")


def golden_hashes():
    """SHA-256 of one code per byte, over every 16-bit pattern or 2^20 of f32; NaN stands for zero."""
    def without_nan(values):
        return np.where(np.isnan(values), np.float32(0), values)

    patterns = np.arange(1 << 16, dtype=np.uint16)
    bf16 = without_nan(patterns.view(ml_dtypes.bfloat16).astype(np.float32))
    f16 = without_nan(patterns.view(np.float16).astype(np.float32))
    words = (np.arange(1 << 20, dtype=np.uint64) * 2654435761 % (1 << 32)).astype(np.uint32)
    f32 = without_nan(words.view(np.float32))
    codes = np.arange(256, dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        yield "f32 to bf16", f32.astype(ml_dtypes.bfloat16)
        yield "f32 to f16", f32.astype(np.float16)
        yield "e4m3 of bf16", formats.e4m3(bf16)
        yield "e4m3 of f16", formats.e4m3(f16)
        yield "e5m2 of bf16", formats.e5m2(bf16)
        yield "e5m2 of f16", formats.e5m2(f16)
        yield "e2m1 of bf16", formats.e2m1(bf16)
        yield "decoded e4m3", without_nan(codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
        yield "decoded e5m2", without_nan(codes.view(ml_dtypes.float8_e5m2).astype(np.float32))


def check_golden_hashes():
    source = (pathlib.Path(__file__).parent.parent / "format.rs").read_text()
    for what, values in golden_hashes():
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        assert digest in source, f"{what}: {digest} is not in format.rs"
    print("golden hashes: as in format.rs")


if __name__ == "__main__":
    check_golden_hashes()
    check(sys.argv[1])
