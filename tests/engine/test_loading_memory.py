"""Loading takes the memory of the model and of one weight; of one layer, where that is a mixture of experts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dovetail_models_llama
import dovetail_models_mixtral
import pytest
import torch
from safetensors.torch import save_file

from dovetail.nn import Context
from dovetail.testing import empty_model, store_together

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the anonymous memory of a process is Linux's to tell")

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
DENSE = {
    **SHAPE,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 3,
    "intermediate_size": 10240,
}
EXPERTS = {
    **SHAPE,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_hidden_layers": 2,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "intermediate_size": 1280,
}
LOAD = """
import ctypes, gc, json, sys, threading, time
import torch
from dovetail.engine.args import EngineArgs
from dovetail.engine.setup import make_plan
from dovetail.engine.step.runner import ModelRunner

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

def measure(folder, dtype):
    plan = make_plan(EngineArgs(model=folder, dtype=dtype))
    gc.collect()
    seen = [anonymous()]
    done = threading.Event()

    def watch():
        while not done.wait(0.0005):
            seen.append(anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    runner = ModelRunner(plan, 16)
    done.set()
    thread.join()
    return runner.weight_bytes, max(seen) - seen[0]

torch.set_num_threads(1)
small, *folders = sys.argv[1:]
for dtype in ("bfloat16", "float32"):  # what libraries need once
    measure(small, dtype)
print(json.dumps([measure(folder, dtype) for folder in folders for dtype in ("bfloat16", "float32")]))
"""
SLACK = 12 * 2**20
"""Bytes of anything else, such as the code that libraries make for a shape."""


def write(folder: Path, config: dict[str, Any], together: bool) -> Path:
    card = next(
        card
        for module in (dovetail_models_llama, dovetail_models_mixtral)
        for card in module.dovetail_register_models()
        if config["architectures"][0] in card.architectures
    )
    ctx: Context
    _, ctx = empty_model(card, config)
    tensors = {f"{n}.weight": torch.full(layer.parts[n], 0.01).bfloat16() for n, layer in ctx.layers.items()}
    tensors |= {name: torch.ones(vector.shape).bfloat16() for name, vector in ctx.vectors.items() if vector.required}
    for name in (n for n in ctx.together if together and n.endswith(("gate_up_proj", "down_proj"))):
        tensors = store_together(ctx, name, tensors)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def test_the_peak_while_loading(tmp_path: Path) -> None:
    small = write(tmp_path / "small", {**DENSE, "num_hidden_layers": 1, "intermediate_size": 64}, False)
    cases = {"dense": (DENSE, False), "an expert a tensor": (EXPERTS, False), "stacked experts": (EXPERTS, True)}
    folders = [small, *(write(tmp_path / name, *case) for name, case in cases.items())]
    # Freed memory goes back at once, so that what is measured is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    measured = iter(json.loads(done.stdout.splitlines()[-1]))
    for name, (config, _) in cases.items():
        for itemsize in (2, 4):
            model, peak = next(measured)
            layer = (
                3 * config["hidden_size"] * config["intermediate_size"] * config.get("num_local_experts", 1) * itemsize
            )
            widest = layer * 2 // 3 if config is DENSE else layer
            assert peak <= model + widest + SLACK, f"{name}, {itemsize} bytes: {peak >> 20} MiB for {model >> 20} MiB"
