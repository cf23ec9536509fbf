"""Times prefill and decode of a GGUF model in llama.cpp, through its C interface.

usage: run_llama_cpp.py MODEL.gguf THREADS PROMPT_TOKENS NEW_TOKENS RUNS {on|off}
The last word switches flash attention. Each run empties the cache, prefills, and decodes token after token.
Prints {"prefill_s": [per run], "decode_s": [per token]} as JSON.
"""

import ctypes
import json
import random
import sys
import time

import llama_cpp

path = sys.argv[1]
threads, prompt_tokens, new_tokens, runs = map(int, sys.argv[2:6])

silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, None)
llama_cpp.llama_backend_init()
model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
parameters = llama_cpp.llama_context_default_params()
parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = prompt_tokens + new_tokens
parameters.n_threads = parameters.n_threads_batch = threads
parameters.flash_attn_type = 1 if sys.argv[6] == "on" else 0
context = llama_cpp.llama_init_from_model(model, parameters)

choose = random.Random(1)
ids = [choose.randrange(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))) for _ in range(prompt_tokens + new_tokens)]


def run(tokens):
    """Seconds until the logits behind the last token are there."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    begin = time.perf_counter()
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    elapsed = time.perf_counter() - begin
    assert status == 0 and ctypes.cast(logits, ctypes.c_void_p).value
    return elapsed


prefill_s, decode_s = [], []
for number in range(runs + 1):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    prefill = run(ids[:prompt_tokens])
    decode = [run([token]) for token in ids[prompt_tokens:]]
    if number > 0:
        prefill_s.append(prefill)
        decode_s.extend(decode)
print(json.dumps({"prefill_s": prefill_s, "decode_s": decode_s}))
