"""Results against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_falcon import dovetail_register_models

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
NEW: dict[str, Any] = {"new_decoder_architecture": True, "num_kv_heads": 2}
APART: dict[str, Any] = {"multi_query": False, "bias": True}


def scaled(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": kind, "factor": 4.0, **more}, "rope_theta": 500.0}


LENGTH = {"original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "one key-value head": {},
    "as many as heads are named": {"num_kv_heads": 4, "rope_theta": 500.0},
    "every head its own": APART,
    "one after the other": {**APART, "parallel_attn": False},
    "one after the other, one key-value head": {"parallel_attn": False, "tie_word_embeddings": False},
    "groups": NEW,
    "groups, every head its own": {"new_decoder_architecture": True, "multi_query": False},
    "groups, one norm": {**NEW, "num_ln_in_parallel_attn": 1, "bias": True},
    "other sizes": {
        **NEW,
        "ffn_hidden_size": 96,
        "intermediate_size": 80,
        "activation": "relu",
        "hidden_act": "gelu",  # which no layer follows
        "layer_norm_epsilon": 1e-2,
    },
    "linear": scaled("linear"),
    "dynamic": scaled("dynamic"),
    "yarn": scaled("yarn", **LENGTH),
    "llama3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, **LENGTH),
}


ALIBI: dict[str, dict[str, Any]] = {
    "alibi": {**APART, "parallel_attn": False},
    "alibi, no power of two": {**APART, "hidden_size": 48, "num_attention_heads": 6},
    "alibi, groups": NEW,
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_gives_the_same_logits(case: str) -> None:
    check_parity(CARDS["falcon"], {**BASE, **CASES[case]})


def original(config: dict[str, Any]) -> Any:
    """The usual implementation of its attention; the eager one adds the biases twice. It rounds them to bfloat16, which
    changes nothing in a short prompt if the slopes are powers of two.
    """
    transformers: Any = pytest.importorskip("transformers")
    keys = {key: value for key, value in config.items() if key != "architectures"}
    return transformers.FalconForCausalLM(transformers.FalconConfig(**keys, attn_implementation="sdpa"))


@pytest.mark.parametrize("case", ALIBI)
def test_the_original_gives_the_same_logits_with_alibi(case: str) -> None:
    check_parity(CARDS["falcon"], {**BASE, "alibi": True, **ALIBI[case]}, original)


@pytest.mark.parametrize("name", ["falcon-embedding", "falcon-classifier"])
def test_the_original_gives_the_same_results_without_its_head(name: str) -> None:
    check_parity(CARDS[name], {**BASE, **NEW, "num_labels": 3})
