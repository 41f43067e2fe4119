"""Damaged and hostile LoRA adapters: each is loaded, or refused in one line that a user can act on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dovetail.engine.step.core import EngineCore

from ..tiny import write_checkpoint
from ..tiny_lora import ATTENTION, MLP, write_adapter
from .folder_use import add_adapter, damage, find_problems, start
from .mutations import damage_bytes, damage_json, dump_json

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "someone/model",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "init_lora_weights": True,
    "inference_mode": True,
    "fan_in_fan_out": False,
    "target_modules": ["q_proj", "v_proj"],
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "modules_to_save": None,
    "rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": 4, "k_proj": 4},
    "alpha_pattern": {"^model.layers.0.self_attn.v_proj$": 16.0, ".*down_proj": 3},
}

_cores: dict[Path, EngineCore] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("adapters")
    torch.set_num_threads(1)
    base = load_file(write_checkpoint(root / "model") / "model.safetensors")
    folder = write_adapter(root / "adapter", base, targets=ATTENTION + MLP, rank=4, seed=1)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    _cores[folder] = start(root / "model", enable_lora=True, max_loras=1)
    add_adapter(_cores[folder], folder)
    _cores[folder].remove_adapter("a")
    yield folder
    del _cores[folder]


def work(folder: Path) -> None:
    add_adapter(_cores[folder], folder)


def damaged_files(rng: random.Random, weights: bytes) -> dict[str, bytes]:
    config = json.dumps(CONFIG).encode()
    length = int.from_bytes(weights[:8], "little")
    match rng.randrange(4):
        case 0:
            return {"adapter_model.safetensors": damage_bytes(weights, rng, first=8 + length)}
        case 1:
            header = dump_json(damage_json(json.loads(weights[8 : 8 + length]), rng))
            return {"adapter_model.safetensors": len(header).to_bytes(8, "little") + header + weights[8 + length :]}
        case _:
            return {"adapter_config.json": damage(CONFIG, rng) if rng.random() < 0.95 else config[: rng.randrange(9)]}


def sweep(folder: Path, seeds: range) -> list[str]:
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return find_problems(folder, seeds, lambda rng: damaged_files(rng, weights), work)


def test_damaged_adapters(folder: Path) -> None:
    assert not sweep(folder, range(100))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_adapters(folder: Path, part: int) -> None:
    assert not sweep(folder, range(1000 + 200 * part, 1200 + 200 * part))
