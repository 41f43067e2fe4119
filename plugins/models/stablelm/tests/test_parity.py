"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_stablelm import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name.removeprefix("stablelm-"): card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 64,
}
LARGEST: dict[str, Any] = {"use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 2}


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": kind, "factor": 4.0, **more}, "rope_theta": 500.0}


LENGTH = {"original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "a quarter is rotated": {"partial_rotary_factor": None},
    "all is rotated": {"partial_rotary_factor": 1.0, "rope_theta": 500.0},
    "parameters in an object": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.75}
    },
    "grouped, biases": {"num_key_value_heads": 1, "use_qkv_bias": True},
    "parallel": {"use_parallel_residual": True, "tie_word_embeddings": True},
    "norms of each head": {"qk_layernorm": True, "layer_norm_eps": 1e-2},
    "both": {**LARGEST, "hidden_act": "gelu"},
    "linear": scaled("linear"),
    "dynamic": scaled("dynamic"),
    "yarn": scaled("yarn", **LENGTH),
    "llama3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **LENGTH),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_logits(case: str) -> None:
    config = {**BASE, **CASES[case]}
    check_parity(CARDS["stablelm"], {key: value for key, value in config.items() if value is not None})


@pytest.mark.parametrize("name", ["embedding", "classifier"])
def test_the_original_gives_the_same_results_without_its_head(name: str) -> None:
    check_parity(CARDS[name], {**BASE, **LARGEST, "num_labels": 3})
