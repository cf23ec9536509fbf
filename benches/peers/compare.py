"""joulewise beside the engines that users would pick instead: same machine, same minutes, same shapes.

usage: compare.py [--rounds N] [--threads N ...] [--cache DIR] [--only NAME ...] [--out FILE]

Each round runs ours, then its peers, each alone in its process, and takes the ratios of their medians; the table shows
the median over the rounds. `comparisons.py` says what is compared. See README.md.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from comparisons import COMPARISONS, ROOT


def milliseconds(times_s):
    return statistics.median(times_s) * 1e3


def compare(comparison, threads, rounds, cache):
    """Per phase and peer: medians of ours and of the peer, round by round."""
    medians = {}
    for number in range(rounds):
        own = comparison.ours(threads)
        for name, peer in comparison.peers.items():
            other = peer(threads, cache, own)
            for phase in other:
                if phase in own and phase in (comparison.phases or own):
                    pair = (milliseconds(own[phase]["times_s"]), milliseconds(other[phase]))
                    medians.setdefault(phase, {}).setdefault(name, []).append(pair)
            print(f"{comparison.short}, round {number + 1} of {rounds}: {name}", file=sys.stderr)
    return medians


def rows(title, threads, medians):
    for phase, by_peer in medians.items():
        for name, pairs in by_peer.items():
            ratios = sorted(peer / own for own, peer in pairs)
            own, peer = (statistics.median(side) for side in zip(*pairs))
            yield (
                f"| {title} | {phase} | {threads} | {own:.2f} ms | {name} | {peer:.2f} ms "
                f"| {statistics.median(ratios):.2f} | {ratios[0]:.2f} - {ratios[-1]:.2f} |"
            )


def machine():
    name = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
    ).stdout.strip()
    load = os.getloadavg()[0]
    return f"{name}, {os.cpu_count()} cores; commit {commit}; load {load:.2f} before the first round"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--cache", type=Path, default=ROOT / "target" / "peers", help="where models are kept")
    parser.add_argument("--only", nargs="+", choices=[comparison.short for comparison in COMPARISONS])
    parser.add_argument("--out", type=Path, help="file the table goes to, row by row, besides the standard output")
    options = parser.parse_args()
    lines = [
        machine(),
        "",
        "| what | phase | threads | joulewise | peer | its time | peer / joulewise | lowest - highest round |",
        "|---|---|--:|--:|---|--:|--:|--:|",
    ]
    for comparison in COMPARISONS:
        if options.only and comparison.short not in options.only:
            continue
        for threads in [comparison.threads] if comparison.threads else options.threads:
            medians = compare(comparison, threads, options.rounds, options.cache)
            lines += rows(comparison.title, threads, medians)
            # What was measured stays when a later row fails or time is up.
            if options.out:
                options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
