"""Results against transformers, over tiny random models that between them use every branch of the configurations."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_olmo import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}
BOTH = ["olmo2", "olmo3"]

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "sliding_window": 9,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "attention_factor": 1.2079441541679836,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.0 + i for i in range(8)]}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "every head its own": {"num_key_value_heads": None},
    "wide heads": {"head_dim": 24},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
    "other epsilon": {"rms_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu"},
    "published scaling": {"rope_scaling": YARN, "rope_theta": 500000.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "longrope": {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", CASES)
def test_logits(name: str, case: str) -> None:
    check_parity(CARDS[name], {**SMALL, **CASES[case]})


def test_what_only_one_of_them_has() -> None:
    third = CARDS["olmo3"]
    mixed = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    apart = {"full_attention": {**YARN, "rope_theta": 300.0}, "sliding_attention": {"rope_theta": 100.0}}
    check_parity(third, {**SMALL, "layer_types": mixed, "rope_parameters": apart})
    check_parity(third, {**SMALL, "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 300.0}}})
    check_parity(third, {**SMALL, "layer_types": ["full_attention"] * 4})
    check_parity(CARDS["olmo2"], {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}})


@pytest.mark.parametrize("name", BOTH)
def test_other_tasks(name: str) -> None:
    check_parity(CARDS[f"{name}-embedding"], SMALL)
    check_parity(CARDS[f"{name}-classifier"], {**SMALL, "num_labels": 5})
