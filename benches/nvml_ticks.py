"""When NVML's energy counter changes, and whether the changes lie on a grid.

    python benches/nvml_ticks.py [--save FILE.csv.gz | --from FILE.csv.gz]

Reads the counter of GPU 0 as fast as it answers, under copies, under matrix products and at rest (PyTorch makes the load),
and prints for each: how long a reading takes, how far changes lie from a straight line, whether one grid fits all of them
within the readings before and behind, and how much the power over 0.1 s and 0.7 s scatters by the moments as seen and by
those on the line.
"""

import argparse
import csv
import ctypes
import gzip
import itertools
import threading
import time

import numpy as np

PERIOD_S = 0.1


def readings_under(nvml, device, load, duration_s):
    """Before, after (seconds) and value (millijoules) of each reading."""
    rows, stop = [], threading.Event()

    def read():
        value = ctypes.c_ulonglong()
        while not stop.is_set():
            before = time.perf_counter()
            nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
            rows.append((before, time.perf_counter(), value.value))

    reader = threading.Thread(target=read)
    reader.start()
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        load()
    stop.set()
    reader.join()
    return rows


def measure():
    import torch

    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    device = ctypes.c_void_p()
    assert nvml.nvmlInit_v2() == 0
    assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    x = torch.randn(64 << 20, device="cuda")
    product, copy = torch.empty_like(a), torch.empty_like(x)

    def products():
        for _ in range(100):
            torch.matmul(a, a, out=product)
        torch.cuda.synchronize()

    def copies():
        for _ in range(40):
            copy.copy_(x)
        torch.cuda.synchronize()

    loads = {"copies": (copies, 14), "products": (products, 10), "rest": (lambda: time.sleep(0.05), 4)}
    return {name: readings_under(nvml, device, load, duration_s) for name, (load, duration_s) in loads.items()}


def report(name, rows):
    changes = [(old, new) for old, new in itertools.pairwise(rows) if old[2] != new[2]]
    earliest = np.array([old[0] for old, _ in changes])
    latest = np.array([new[1] for _, new in changes])
    seen = np.array([sum(old[:2]) + sum(new[:2]) for old, new in changes]) / 4
    energy = np.array([new[2] for _, new in changes]) / 1e3
    number = np.round((seen - seen[0]) / PERIOD_S)
    slope, start = np.polyfit(number, seen, 1)
    on_line = start + slope * number
    fits = any(
        (earliest - number * period).max() <= (latest - number * period).min()
        for period in np.linspace(slope - 2e-4, slope + 2e-4, 401)
    )
    reading = np.median([after - before for before, after, _ in rows])
    print(f"{name}: {len(changes)} changes, {1e3 * slope:.3f} ms apart; a reading takes {1e3 * reading:.2f} ms")
    print(f"  off the line by {1e3 * (seen - on_line).std():.2f} ms; a grid fits all: {'yes' if fits else 'no'}")
    for ticks in (1, 7):
        scatters = []
        for moments in (seen, on_line):
            power = np.diff(energy[::ticks]) / np.diff(moments[::ticks])
            scatters.append(100 * power.std() / power.mean())
        print(f"  power over {ticks} changes scatters by {scatters[0]:.2f} % as seen, {scatters[1]:.2f} % on the line")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", help="keep the readings")
    parser.add_argument("--from", dest="source", help="readings that were kept, instead of a GPU")
    arguments = parser.parse_args()
    if arguments.source:
        loads = {}
        with gzip.open(arguments.source, "rt") as file:
            for load, before, after, value in csv.reader(file):
                loads.setdefault(load, []).append((float(before), float(after), int(value)))
    else:
        loads = measure()
    if arguments.save:
        with gzip.open(arguments.save, "wt") as file:
            csv.writer(file).writerows((load, *row) for load, rows in loads.items() for row in rows)
    for load, rows in loads.items():
        report(load, rows)


if __name__ == "__main__":
    main()
