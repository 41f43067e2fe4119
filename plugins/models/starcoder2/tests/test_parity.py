"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_starcoder2 import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": kind, "factor": 4.0, **more}, "rope_theta": 500.0}


LENGTH = {"original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": {"sliding_window": 23, "rope_theta": 500.0, "mlp_type": "default", "norm_type": "layer_norm"},
    "window, and keys of others": {"sliding_window": 23, "use_sliding_window": False, "sliding_window_pattern": 2},
    "untied, no biases": {"tie_word_embeddings": False, "use_bias": False},
    "every head its own": {"num_key_value_heads": 4, "hidden_act": "gelu", "norm_epsilon": 1e-2},
    "wide heads": {"head_dim": 24},
    "linear": scaled("linear"),
    "dynamic": {**scaled("dynamic"), "max_position_embeddings": 64},
    "yarn": scaled("yarn", **LENGTH),
    "llama3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **LENGTH),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_logits(case: str) -> None:
    check_parity(CARDS["starcoder2"], {**BASE, **CASES[case]})


@pytest.mark.parametrize("name", ["starcoder2-embedding", "starcoder2-classifier"])
def test_the_original_gives_the_same_results_without_its_head(name: str) -> None:
    check_parity(CARDS[name], {**BASE, "num_labels": 3, "sliding_window": 23})
