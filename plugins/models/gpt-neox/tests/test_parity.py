"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_gpt_neox import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": kind, "factor": 4.0, **more}, "rotary_emb_base": 500, "rotary_pct": 0.5}


LENGTH = {"original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_scaling": None, "hidden_act": "gelu_fast"},
    "other names": {"partial_rotary_factor": 1.0, "rope_theta": 500.0},
    "parameters in an object": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.75}
    },
    "all is rotated": {"rotary_pct": 1.0, "layer_norm_eps": 1e-2},
    "one after the other": {"use_parallel_residual": False, "tie_word_embeddings": True},
    "no biases": {"attention_bias": False},
    "linear": scaled("linear"),
    "dynamic": scaled("dynamic"),
    "yarn": scaled("yarn", **LENGTH),
    "llama3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **LENGTH),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_logits(case: str) -> None:
    check_parity(CARDS["gpt-neox"], {**BASE, **CASES[case]})


@pytest.mark.parametrize("name", ["gpt-neox-embedding", "gpt-neox-classifier"])
def test_the_original_gives_the_same_results_without_its_head(name: str) -> None:
    check_parity(CARDS[name], {**BASE, "num_labels": 3})
