"""Results against transformers, over tiny random models that between them use every branch of the configurations."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_cohere import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}
BOTH = ["cohere", "cohere2"]

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
LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.0 + i for i in range(8)]}
MIXED = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "every head its own": {"num_key_value_heads": None},
    "head of its own": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True},
    "other epsilon": {"layer_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu"},
    "logits": {"logit_scale": 0.8},
    "theta": {"rope_theta": 300.0},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "longrope": {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", CASES)
def test_logits(name: str, case: str) -> None:
    check_parity(CARDS[name], {**SMALL, **CASES[case]})


def test_what_only_one_of_them_has() -> None:
    check_parity(CARDS["cohere"], {**SMALL, "use_qk_norm": True})
    check_parity(CARDS["cohere"], {**SMALL, "use_qk_norm": True, "attention_bias": True, "num_key_value_heads": 1})
    for keys in ({"sliding_window_pattern": 2}, {"layer_types": MIXED}, {"sliding_window": 500}):
        check_parity(CARDS["cohere2"], {**SMALL, **keys})


@pytest.mark.parametrize("name", BOTH)
def test_hidden_states_without_a_head(name: str) -> None:
    check_parity(CARDS[f"{name}-embedding"], SMALL)
