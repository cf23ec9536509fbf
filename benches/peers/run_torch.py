"""Times PyTorch on the CPU, alone in its process.

usage: run_torch.py gpt2-int8 THREADS {onednn|x86} TOKENS RUNS
       run_torch.py distilbert-bf16 THREADS BATCH TOKENS RUNS
       run_torch.py product-int8 THREADS {onednn|x86} M N K RUNS

gpt2-int8: a prompt, logits of the last token; linear layers as torch quantizes them dynamically.
distilbert-bf16: compiled, weights frozen. product-int8: one dynamically quantized linear layer.
Random weights at real shapes. Prints the seconds of each run as a JSON list.
"""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear  # noqa: E402
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic  # noqa: E402

WARM_UP = 5


def times(run, runs):
    times_s = []
    for number in range(runs + WARM_UP):
        begin = time.perf_counter()
        run()
        if number >= WARM_UP:
            times_s.append(time.perf_counter() - begin)
    return times_s


def gpt2_int8(engine, tokens, runs):
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

    torch.backends.quantized.engine = engine
    model = GPT2LMHeadModel(GPT2Config()).eval()
    # What is quantized are `Linear`s; GPT-2's layers are the same, transposed.
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = torch.nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.T.contiguous(), child.bias.data
                setattr(module, name, linear)
    model = quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    ids = torch.randint(0, 50257, (1, int(tokens)))
    return times(lambda: model(ids, use_cache=True, logits_to_keep=1).logits, int(runs))


def distilbert_bf16(batch, tokens, runs):
    import torch._inductor.config
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch._inductor.config.freezing = True
    model = DistilBertForSequenceClassification(DistilBertConfig()).eval().to(torch.bfloat16)
    compiled = torch.compile(model)
    ids = torch.randint(0, 30522, (int(batch), int(tokens)))
    return times(lambda: compiled(input_ids=ids).logits, int(runs))


def product_int8(engine, m, n, k, runs):
    torch.backends.quantized.engine = engine
    linear = torch.nn.Linear(int(k), int(n))
    linear.qconfig = default_dynamic_qconfig
    linear = DynamicLinear.from_float(linear)
    x = torch.randn(int(m), int(k))
    return times(lambda: linear(x), int(runs))


what, threads, *words = sys.argv[1:]
torch.set_num_threads(int(threads))
measure = {"gpt2-int8": gpt2_int8, "distilbert-bf16": distilbert_bf16, "product-int8": product_int8}
with torch.no_grad():
    print(json.dumps(measure[what](*words)))
