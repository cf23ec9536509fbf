"""Times one onnxruntime session, alone in its process: two sessions would spin against each other.

usage: run_onnxruntime.py MODEL.onnx THREADS BATCH TOKENS RUNS
Prints the seconds of each run as a JSON list.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

path, threads, batch, tokens, runs = sys.argv[1], *map(int, sys.argv[2:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
ids = np.random.default_rng(1).integers(0, 30522, (batch, tokens), dtype=np.int64)

times_s = []
for run in range(runs + 5):
    begin = time.perf_counter()
    (logits,) = session.run(None, {"input_ids": ids})
    if run >= 5:
        times_s.append(time.perf_counter() - begin)
assert np.isfinite(logits).all()
print(json.dumps(times_s))
