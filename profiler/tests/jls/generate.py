#!/usr/bin/env python3
"""Writes the JLS files of the tests and what `pyjls` itself reads from them.

    python3 -m venv venv && venv/bin/pip install pyjls==0.17.0 numpy && venv/bin/python generate.py
"""

import json
import pathlib
import struct

import numpy as np
from pyjls import DataType, Reader, SignalType, Writer, time64

HERE = pathlib.Path(__file__).parent
BEGIN = 1_700_000_000.0


def write(name, signals, utc):
    """Signals: name, unit, type, rate, chunks of (first sample, values)."""
    with Writer(str(HERE / name)) as file:
        file.source_def(source_id=1, name="JS220-000001", vendor="Jetperch", model="JS220", version="1", serial_number="1")
        for index, (signal, unit, data_type, rate, chunks) in enumerate(signals, 1):
            file.signal_def(
                signal_id=index, source_id=1, signal_type=SignalType.FSR, data_type=data_type, sample_rate=rate,
                samples_per_data=512, sample_decimate_factor=32, entries_per_summary=320, summary_decimate_factor=10,
                name=signal, units=unit,
            )
            for first, values in chunks:
                file.fsr(index, first, values)
            for sample, unix_s in utc:
                file.utc(index, sample, time64.as_time64(unix_s))


def means(name, signal, ranges):
    """Mean of the samples in ranges that count from the first sample, as pyjls reads them."""
    with Reader(str(HERE / name)) as file:
        found = file.signal_lookup(signal)
        values = lambda first, n: file.fsr(found.signal_id, first, n).astype(np.float64)
        return [{"first": first, "n": n, "mean": float(np.mean(values(first, n)))} for first, n in ranges]


def crc32c(data):
    """Castagnoli's, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def leave_out(name, signal_id):
    """Leaves out the chunks of a signal's bits that are all the same, but for the first and last.

    The format lets writers do so (the index then has 0 in their places), and instruments do; `pyjls` 0.17 reads such
    files but writes every chunk. What is left out becomes chunks without a meaning.
    """
    path = HERE / name
    data, at, chunks = bytearray(path.read_bytes()), 32, []
    while at < len(data):
        tag, meta, length = struct.unpack_from("<16xBxHI", data, at)
        chunks.append((at, tag, meta, length))
        at += 32 + ((length + 4 + 7) // 8 * 8 if length else 0)

    def seal(at, length):
        struct.pack_into("<I", data, at + 28, crc32c(data[at : at + 28]))
        end = at + 32 + (length + 4 + 7) // 8 * 8
        struct.pack_into("<I", data, end - 4, crc32c(data[at + 32 : at + 32 + length]))

    stored = [chunk for chunk in chunks if chunk[1:3] == (0x22, signal_id)]
    left_out = set()
    for at, _, _, length in stored[1:-1]:
        if len(set(data[at + 48 : at + 32 + length])) == 1:
            left_out.add(at)
            data[at + 16] = 0
            data[at + 48 : at + 32 + length] = b"\xaa" * (length - 16)
            seal(at, length)
    for at, tag, meta, length in chunks:
        if (tag, meta) == (0x23, 0x1000 | signal_id):
            (entries,) = struct.unpack_from("<I", data, at + 40)
            for place in range(at + 48, at + 48 + 8 * entries, 8):
                if struct.unpack_from("<Q", data, place)[0] in left_out:
                    struct.pack_into("<Q", data, place, 0)
            seal(at, length)
    path.write_bytes(data)
    return len(left_out)


def bits(levels):
    return np.packbits(np.asarray(levels, dtype=np.uint8), bitorder="little")


# Power at 10 kHz that begins with sample 1000, on a clock that is 200 ppm slow, with 400 samples missing.
at = np.arange(6000) / 10_000
power = (5 + 2 * np.sin(2 * np.pi * 7 * at) + (at > 0.25)).astype(np.float32)
utc = [(1000, BEGIN), (7000, BEGIN + 0.6 * 1.0002)]
write("power.jls", [("power", "W", DataType.F32, 10_000, [(1000, power[:4000]), (5400, power[4400:])])], utc)

# A line that is low or high for 1.5 s at a time: chunks in which it stays the same are left out.
line = (np.arange(4096) // 1500) % 2
write(
    "omitted.jls",
    [
        ("power", "W", DataType.F32, 1000, [(0, np.full(4096, 3.25, np.float32))]),
        ("gpi[0]", "", DataType.U1, 1000, [(0, bits(line))]),
    ],
    [(0, BEGIN)],
)
assert leave_out("omitted.jls", 2) == 4
with Reader(str(HERE / "omitted.jls")) as file:
    read = file.fsr(file.signal_lookup("gpi[0]").signal_id, 0, len(line))
    assert np.array_equal(np.unpackbits(read, bitorder="little")[: len(line)], line)

# Volts and amperes, no power, no calendar, numbers of other types.
volts = 5 + np.cos(np.arange(2000) / 100)
amperes = (100 + 50 * np.cos(np.arange(2000) / 100)).astype(np.int16)
write(
    "product.jls",
    [
        ("current", "A", DataType.I16, 1000, [(0, amperes)]),
        ("voltage", "V", DataType.F64, 1000, [(0, volts)]),
    ],
    [],
)

expected = {
    "power.jls": means("power.jls", "power", [(10, 1000), (500, 3000), (1234, 777), (4500, 1500)]),
    "omitted.jls": means("omitted.jls", "power", [(10, 1000), (1000, 3000)]),
    "product.jls": [
        {"first": first, "n": n, "mean": float(np.mean((volts * amperes)[first : first + n]))}
        for first, n in [(10, 1000), (100, 1500)]
    ],
}
(HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
