"""joulewise beside the engines that users would pick instead: same machine, same minutes, same shapes.

usage: compare.py [--rounds N] [--threads N ...] [--cache DIR] [--only NAME ...] [--out FILE]

Each round runs ours, then the peer, each alone in its process, and takes the ratio of their medians; the table shows
the median over the rounds. See README.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEP_TIME = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "step_time"

TOKENS = 128
NEW_TOKENS = 64


def run(*command):
    """Runs a program to its end and returns the JSON on the last line of its output."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def ours_forward(threads):
    words = ["synth:distilbert-base", "fp32", threads, "forward", TOKENS, 60]
    return {"forward": run(STEP_TIME, *words)["phases"]["forward"]["times_s"]}


def ours_generate(threads):
    words = ["synth:gpt2", "fp16", threads, "generate", TOKENS, NEW_TOKENS, 5]
    phases = run(STEP_TIME, *words)["phases"]
    return {name: phases[name]["times_s"] for name in ("prefill", "decode")}


def onnxruntime_forward(attention):
    def measure(threads, cache):
        model = made(cache / f"distilbert_{attention}.onnx", "distilbert_onnx.py", attention)
        return {"forward": run(sys.executable, HERE / "run_onnxruntime.py", model, threads, TOKENS, 60)}

    return measure


def llama_cpp_generate(flash_attention):
    def measure(threads, cache):
        model = made(cache / "gpt2_f16.gguf", "gpt2_gguf.py")
        words = [model, threads, TOKENS, NEW_TOKENS, 5, flash_attention]
        times = run(sys.executable, HERE / "run_llama_cpp.py", *words)
        return {name: times[f"{name}_s"] for name in ("prefill", "decode")}

    return measure


# Name, ours, and every way of running the peer; its best one counts.
COMPARISONS = [
    (
        f"DistilBERT-base f32, 1 x {TOKENS} tokens",
        "distilbert",
        ours_forward,
        {
            "onnxruntime, exported graph": onnxruntime_forward("plain"),
            "onnxruntime, fused attention": onnxruntime_forward("fused"),
        },
    ),
    (
        f"GPT-2 small f16, prompt of {TOKENS}, {NEW_TOKENS} new tokens",
        "gpt2",
        ours_generate,
        {
            "llama.cpp": llama_cpp_generate("off"),
            "llama.cpp, flash attention": llama_cpp_generate("on"),
        },
    ),
]


def made(path, script, *words):
    """The model file, written first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        subprocess.run([sys.executable, HERE / script, unfinished, *words], check=True)
        unfinished.rename(path)
    return path


def milliseconds(times_s):
    return statistics.median(times_s) * 1e3


def compare(ours, peers, threads, rounds, cache):
    """Per phase: medians per round of ours and of each peer."""
    for peer in peers.values():
        peer(threads, cache)
    medians = {}
    for number in range(rounds):
        # Ours runs before each peer, so that the two of a pair are close in time.
        for name, peer in peers.items():
            own, other = ours(threads), peer(threads, cache)
            for phase in own:
                pair = (milliseconds(own[phase]), milliseconds(other[phase]))
                medians.setdefault(phase, {}).setdefault(name, []).append(pair)
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
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
    parser.add_argument("--only", nargs="+", choices=[short for _, short, _, _ in COMPARISONS])
    parser.add_argument("--out", type=Path, help="file for the table besides the standard output")
    options = parser.parse_args()
    lines = [
        machine(),
        "",
        "| what | phase | threads | joulewise | peer | its time | peer / joulewise | lowest - highest round |",
        "|---|---|--:|--:|---|--:|--:|--:|",
    ]
    for title, short, ours, peers in COMPARISONS:
        if options.only and short not in options.only:
            continue
        for threads in options.threads:
            lines += rows(title, threads, compare(ours, peers, threads, options.rounds, options.cache))
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
