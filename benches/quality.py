"""Scores of every strategy on real models, beside the bytes of the weights: SST-2 accuracy, STS-B correlation and
WikiText-2 perplexity, as Markdown. Nothing is timed, so the machine may be busy.

    cargo build --release
    python benches/quality.py target/release/joulewise MODELS DATA [MODEL...] > benches/record/MACHINE/quality.md

MODELS and DATA are the directories of checkpoints and data sets; models that are not there, or not among those named,
are left out. `int8` is calibrated on training or validation text.
"""

import json
import pathlib
import platform
import subprocess
import sys

STRATEGIES = ["fp32", "int8-dynamic", "fp8", "int4", "mxfp4", "nvfp4", "nf4", "int8", "int8-weight", "fp8-weight",
              "fp8-e5m2-weight", "bf16", "fp16"]
# Model, task, data, calibration text, and whether a larger score is better.
CASES = [
    ("distilbert-sst2", "sst2", "sst2/dev.tsv", "sst2/train.tsv", True),
    ("distilbert-sst2-mini", "sst2", "sst2/dev.tsv", "sst2/train.tsv", True),
    ("minilm-l6", "stsb", "stsb/stsb-en-test.csv", "stsb/stsb-en-train.csv", True),
    ("gpt2-wikitext2", "wikitext2", "wikitext-2/test.txt", "wikitext-2/valid.txt", False),
    ("gpt2-wikitext2-mini", "wikitext2", "wikitext-2/test.txt", "wikitext-2/valid.txt", False),
]


def evaluate(program, model, task, data, text, strategy):
    command = [program, "eval", model, "--task", task, "--data", data, "--strategy", strategy, "--device", "cpu", "--json"]
    if strategy == "int8":
        command += ["--calibrate", text]
    run = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return json.loads(run.stdout) if run.returncode == 0 else run.stderr.strip()


def row(strategy, report, reference, larger_is_better):
    if isinstance(report, str):
        return f"| {strategy} | {report} | | | |"
    score = f"{report['score']:.4f}"
    if "correct" in report:
        score = f"{100 * report['score']:.2f} % ({report['correct']}/{report['n']})"
        change = f"{100 * (report['score'] - reference['score']):+.2f} points"
    elif larger_is_better:
        change = f"{report['score'] - reference['score']:+.4f}"
    else:
        change = f"{100 * (report['score'] / reference['score'] - 1):+.2f} %"
    share = report["weight_bytes"] / reference["weight_bytes"]
    return f"| {strategy} | {score} | {change} | {report['weight_bytes'] / 1e6:.2f} MB | {share:.3f} |"


def main(program, models, data, *names):
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True).stdout.strip()
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                     platform.machine())
    print(f"# Quality of every strategy\n\n{processor}, commit {commit}, `python benches/quality.py`. Embeddings and heads "
          "keep 16 bits under strategies of 8 and 4.", flush=True)
    for model, task, file, text, larger_is_better in CASES:
        directory, file = pathlib.Path(models) / model, pathlib.Path(data) / file
        if (names and model not in names) or not directory.exists() or not file.exists():
            continue
        reference = None
        for strategy in STRATEGIES:
            report = evaluate(program, directory, task, file, pathlib.Path(data) / text, strategy)
            if reference is None:
                reference = report
                print(f"\n## {model}, {task}: {report['metric']}\n\n{report['convention']}.\n\n"
                      f"| strategy | {report['metric']} | against fp32 | weights | of fp32 |\n|---|--:|--:|--:|--:|")
            print(row(strategy, report, reference, larger_is_better), flush=True)


main(*sys.argv[1:])
