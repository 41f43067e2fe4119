"""LoRA adapters for the tiny Llama, as PEFT saves them, and the models that they make when merged."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "base_model.model."
ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def write_adapter(
    folder: Path, base: Mapping[str, Tensor], *, targets: tuple[str, ...], rank: int, seed: int, **config: Any
) -> Path:
    """Random matrices for some modules of every layer, large enough that the likeliest tokens are others.

    Args:
        base: the model's tensors.
        targets: endings of the modules' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(targets), **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module.endswith(targets):
            rows, columns = weight.shape
            tensors[f"{PREFIX}{module}.lora_A.weight"] = 0.2 * torch.randn(rank, columns, generator=generator)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = 0.2 * torch.randn(rows, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(base: Mapping[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """The model's tensors with an adapter's products added, by the definition of LoRA."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    matrices = load_file(adapter / "adapter_model.safetensors")
    tensors = dict(base)
    for name in base:
        module = name.removesuffix(".weight")
        if f"{PREFIX}{module}.lora_A.weight" in matrices:
            a, b = (matrices[f"{PREFIX}{module}.lora_{side}.weight"].double() for side in "AB")
            tensors[name] = (base[name].double() + config["lora_alpha"] / root * (b @ a)).float()
    return tensors


def write_merged(folder: Path, checkpoint: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint like another one, with other weights."""
    shutil.copytree(checkpoint, folder)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder
