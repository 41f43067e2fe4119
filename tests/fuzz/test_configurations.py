"""Damaged and hostile configurations: each is served, or refused in one line that a user can act on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tiny import CONFIG, write_checkpoint
from .folder_use import damage, find_problems, use_model

FULL: dict[str, Any] = {
    **CONFIG,
    "head_dim": 8,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "sliding_window": None,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": [255, 254],
    "initializer_range": 0.02,
    "use_cache": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1}
LONG = {"type": "longrope", "long_factor": [1.5] * 4, "short_factor": [1.0] * 4, "factor": 4.0}
SEEDS: tuple[dict[str, Any], ...] = (
    FULL,
    {**FULL, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_scaling": YARN, "sliding_window": 64},
    {**FULL, "rope_scaling": LONG, "tie_word_embeddings": False},
    {**FULL, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "quantization_config": None},
    {**FULL, "architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_multiplier": 0.1,
     "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
)  # fmt: skip
GENERATION: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": [255, 254],
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "max_new_tokens": 64,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("configurations") / "model")
    torch.set_num_threads(1)
    use_model(folder)  # what is imported at the first use is there for all trials
    return folder


def damaged_files(rng: random.Random) -> dict[str, bytes]:
    config = rng.choice(SEEDS)
    match rng.randrange(8):
        case 0:
            return {"config.json": json.dumps(config).encode(), "generation_config.json": damage(GENERATION, rng)}
        case 1:
            plain = {
                name: json.dumps(value).encode()
                for name, value in (("modules.json", MODULES), ("1_Pooling/config.json", POOLING))
            }
            broken = rng.choice([*plain])
            return {**plain, broken: damage({"modules.json": MODULES, "1_Pooling/config.json": POOLING}[broken], rng)}
        case _:
            return {"config.json": damage(config, rng)}


def sweep(folder: Path, seeds: range) -> list[str]:
    return find_problems(folder, seeds, damaged_files, use_model)


def test_damaged_configurations(folder: Path) -> None:
    assert not sweep(folder, range(100))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_configurations(folder: Path, part: int) -> None:
    assert not sweep(folder, range(1000 + 200 * part, 1200 + 200 * part))
