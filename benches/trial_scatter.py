"""How much of what equal trials of a profile scatter by comes from the clock and the temperature of the device.

    python benches/trial_scatter.py WINDOWS.csv[.gz] ...

Takes the windows of a profile that ran the same (the whole program, or it with the same sweeps) more than once, and prints
their scatter in joules and seconds per iteration, before and after a common effect of clock and temperature is taken out.
"""

import collections
import csv
import gzip
import sys

import numpy as np


def equal_trials(path):
    """Rows of (joules, seconds, hertz, degrees) per iteration, for each content that ran more than once."""
    contents = collections.defaultdict(list)
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["target"] in ("whole", "repeated", "mixture") and row["energy_j"] and row["clock_hz"]:
                n = int(row["iterations"])
                values = float(row["energy_j"]) / n, float(row["run_s"]) / n, float(row["clock_hz"])
                contents[row["classes"]].append((*values, float(row["temperature_c"])))
    return {content: np.array(rows) for content, rows in contents.items() if len(rows) > 1}


def scatter(contents, column):
    """Relative scatter within contents: as it is, without clock and temperature, and the effects of these."""
    freedom = sum(len(rows) - 1 for rows in contents.values())
    y = np.concatenate([rows[:, column] / rows[:, column].mean() - 1 for rows in contents.values()])
    clock = np.concatenate([rows[:, 2] / rows[:, 2].mean() - 1 for rows in contents.values()])
    tens_of_kelvins = np.concatenate([(rows[:, 3] - rows[:, 3].mean()) / 10 for rows in contents.values()])
    z = np.stack([clock, tens_of_kelvins], axis=1)
    effects = np.linalg.lstsq(z, y, rcond=None)[0]
    rest = y - z @ effects
    variance = rest @ rest / (freedom - 2)
    return np.sqrt(y @ y / freedom), np.sqrt(variance), effects, np.sqrt(np.diag(np.linalg.inv(z.T @ z)) * variance)


def line(name, contents, column):
    before, after, effects, errors = scatter(contents, column)
    of_clock, of_temperature = (f"{100 * e * s:+.2f} ± {196 * d * s:.2f} %" for e, d, s in zip(effects, errors, (0.01, 1)))
    print(f"  {name}: scatter {100 * before:.2f} -> {100 * after:.2f} %; a clock 1 % higher {of_clock}, 10 K more {of_temperature}")


for path in sys.argv[1:]:
    contents = equal_trials(path)
    rows = np.concatenate(list(contents.values()))
    hertz = rows[:, 2] / 1e6
    print(f"{path}: {len(rows)} trials of {len(contents)} contents, {hertz.min():.0f} to {hertz.max():.0f} MHz, "
          f"{rows[:, 3].min():.0f} to {rows[:, 3].max():.0f} °C")
    line("joules", contents, 0)
    line("seconds", contents, 1)
    whole = {"": contents[""]}
    print(f"  the whole program alone, {len(whole[''])} trials:")
    line("  joules", whole, 0)
    line("  seconds", whole, 1)
