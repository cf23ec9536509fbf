"""Holds what `joulewise export` writes against the programs that it is for: which module gets which scheme.

    pip install torch transformers compressed-tensors==0.20.0 llama-cpp-python==0.3.36
    python check_recipes.py target/debug/joulewise [GPT2-SMALL.gguf]

compressed-tensors applies the configuration to the architecture as transformers builds it. llama.cpp's library quantizes a
file of GPT-2 small, in 16 or 32 bits, by what its `llama-quantize` would make of our arguments.
"""

import ctypes
import fnmatch
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[3]
# Rules of a plan, the last that matches wins; `STRATEGY` is what none names.
STRATEGY = "fp16"
GPT2 = [("transformer.h.*.mlp.c_fc", "int8-dynamic"), ("transformer.h.1.mlp.c_fc", "fp8"),
        ("transformer.h.2.*.c_proj", "int4"), ("transformer.h.3.attn.c_attn", "nvfp4"),
        ("transformer.h.0.attn.c_attn", "mxfp4"), ("transformer.wte", "int8-weight"), ("lm_head", "int8-weight")]
LLAMA = [("model.layers.*.mlp.*_proj", "int8-dynamic"), ("model.layers.1.mlp.down_proj", "fp8-weight"),
         ("model.layers.*.self_attn.o_proj", "int4"), ("model.layers.0.self_attn.q_proj", "fp8"),
         ("model.layers.0.self_attn.k_proj", "fp8"), ("model.layers.0.self_attn.v_proj", "fp8"),
         ("lm_head", "int8-weight")]
DISTILBERT = [("distilbert.transformer.layer.*.ffn.lin*", "int8-dynamic"), ("*.layer.2.ffn.lin2", "nvfp4"),
              ("*.layer.1.attention.out_lin", "mxfp4"), ("classifier", "fp8-e5m2-weight")]
CASES = [("models/demo/gpt2-wikitext2-mini", GPT2), ("models/tests/golden/llama-llama3", LLAMA),
         ("models/demo/distilbert-sst2-mini", DISTILBERT)]
# Bits and type of weights, and of inputs.
SCHEMES = {"int8-dynamic": ((8, "int"), (8, "int")), "int8-weight": ((8, "int"), None), "fp8": ((8, "float"), (8, "float")),
           "fp8-weight": ((8, "float"), None), "fp8-e5m2-weight": None, "int4": ((4, "int"), None),
           "mxfp4": ((4, "float"), None), "nvfp4": ((4, "float"), None)}


def export(program, model, rules, target):
    with tempfile.TemporaryDirectory() as folder:
        plan = pathlib.Path(folder) / "plan.toml"
        text = f'schema = 1\nstrategy = "{STRATEGY}"\n'
        plan.write_text(text + "".join(f'[[rule]]\nmatch = "{match}"\nuse = "{use}"\n' for match, use in rules))
        model = model if ":" in model else str(ROOT / model)
        command = [program, "export", model, "--plan", str(plan), "--to", target, "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["text"]


def planned(name, rules):
    fitting = [use for match, use in rules if fnmatch.fnmatchcase(name, match)]
    return fitting[-1] if fitting else STRATEGY


def check_compressed_tensors(program):
    import torch
    import transformers
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.utils.match import is_match
    from transformers.pytorch_utils import Conv1D

    for directory, rules in CASES:
        config = transformers.AutoConfig.from_pretrained(ROOT / directory)
        classes = {"GPT2LMHeadModel": transformers.GPT2LMHeadModel, "LlamaForCausalLM": transformers.LlamaForCausalLM,
                   "DistilBertForSequenceClassification": transformers.DistilBertForSequenceClassification}
        with torch.device("meta"):
            model = classes[config.architectures[0]](config)
        exported = json.loads(export(program, directory, rules, "compressed-tensors"))["quantization_config"]
        assert exported.pop("quant_method") == "compressed-tensors"
        parsed = QuantizationConfig.model_validate(exported)
        targets = [target for group in parsed.config_groups.values() for target in group.targets]
        assert len(targets) == len(set(targets)), "a module has two schemes"
        kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
        modules = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
        wanted = {name for name in modules if planned(name, rules) in SCHEMES}
        # Tied, so that the table's scheme is the head's.
        if config.tie_word_embeddings:
            wanted.discard("lm_head")
        matched = {name for name, module in model.named_modules() if is_match(name, module, targets, parsed.ignore)}
        assert matched == wanted, f"{directory}: {sorted(matched ^ wanted)}"
        for group in parsed.config_groups.values():
            for name in group.targets:
                weights, inputs = SCHEMES[planned(name, rules)] or ((8, "float"), None)
                got = (group.weights.num_bits, str(group.weights.type))
                assert got == weights, (name, got)
                inputs_got = group.input_activations and (group.input_activations.num_bits, str(group.input_activations.type))
                assert inputs_got == inputs, (name, inputs_got)
        apply_quantization_config(model, parsed, show_progress=False)
        applied = {name for name, module in model.named_modules() if getattr(module, "quantization_scheme", None)}
        # transformers' GPT-2 has layers of its own kind, which the library matches and leaves alone; vLLM's has not.
        assert applied == {name for name in wanted if not isinstance(modules[name], Conv1D)}, sorted(applied ^ wanted)
        print(f"compressed-tensors: {directory}: {len(wanted)} modules matched in {len(parsed.config_groups)} groups, "
              f"{len(applied)} of a kind that transformers quantizes")


def check_llama(program, file):
    import gguf
    from llama_cpp import llama_cpp as library

    words = shlex.split(export(program, "synth:gpt2", GPT2, "llama-quantize").replace("\\\n", " "))
    source = gguf.GGUFReader(file)
    types = {kind.name.lower(): kind for kind in gguf.GGMLQuantizationType}
    parameters = library.llama_model_quantize_default_params()
    overrides, expected = [], {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option == "--allow-requantize":
            parameters.allow_requantize = True
            continue
        value = words.pop(0)
        if option == "--token-embedding-type":
            parameters.token_embedding_type = types[value]
            expected["token_embd.weight"] = types[value]
            continue
        pattern, kind = value.split("=", 1)
        assert option == "--tensor-type" and pattern == pattern.lower(), value
        overrides.append((pattern.encode(), types[kind]))
        found = [tensor.name for tensor in source.tensors if re.search(pattern, tensor.name)]
        assert len(found) == 1, f"{pattern} fits {found}"
        expected[found[0]] = types[kind]
    parameters.ftype = {"q8_0": library.LLAMA_FTYPE_MOSTLY_Q8_0, "f16": library.LLAMA_FTYPE_MOSTLY_F16}[words[2]]
    rows = (library.llama_model_tensor_override * (len(overrides) + 1))()
    for row, (pattern, kind) in zip(rows, overrides):
        row.pattern, row.type = pattern, kind
    rows[len(overrides)].type = len(types)
    parameters.tt_overrides = ctypes.cast(rows, ctypes.POINTER(library.llama_model_tensor_override))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.gguf"
        failed = library.llama_model_quantize(str(file).encode(), str(out).encode(), ctypes.byref(parameters))
        assert failed == 0
        made = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(out).tensors}
    before = {tensor.name: tensor.tensor_type for tensor in source.tensors}
    # Positions are never quantized there.
    expected["position_embd.weight"] = before["position_embd.weight"]
    wrong = {name: (kind.name, expected.get(name, before[name]).name) for name, kind in made.items()
             if kind != expected.get(name, before[name])}
    assert not wrong, wrong
    print(f"llama.cpp: {len(expected)} tensors as the plan has them")


check_compressed_tensors(sys.argv[1])
if len(sys.argv) > 2:
    check_llama(sys.argv[1], pathlib.Path(sys.argv[2]))
