"""ModernBERT: the conformance kit, results against transformers, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_bert import dovetail_register_models
from dovetail_models_bert.config import ModernBertConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_parity

CARDS = {card.name: card for card in dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "local_attention": 16,
    "pad_token_id": 0,
}
PUBLISHED = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "layer_norm_eps": 1e-05,
    "local_rope_theta": 10000.0,
    "mlp_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-05,
    "position_embedding_type": "absolute",
}
"""What the files of ModernBERT-base have beside sizes."""
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}

CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "published": {key: value for key, value in PUBLISHED.items() if key != "architectures"},
    "biases": BIASES,
    "an odd window": {"local_attention": 15, "global_attn_every_n_layers": 2},
    "layer types": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "every layer sees all": {"global_attn_every_n_layers": 1},
    "other thetas": {"global_rope_theta": 300.0, "local_rope_theta": 50.0},
    "parameters": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 300.0},
            "sliding_attention": {"rope_type": "default"},
        }
    },
    "scaling": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "other functions": {"hidden_activation": "silu", "norm_eps": 1e-2},
}


@pytest.mark.parametrize("case", CASES)
def test_hidden_states(case: str) -> None:
    pytest.importorskip("transformers")
    check_parity(CARDS["modernbert"], {**TINY, **CASES[case]}, chunks=(None,))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 3},
        {"num_labels": 1, "classifier_pooling": "mean", **BIASES},
        {"num_labels": 2, "classifier_activation": "silu"},
    ],
)
def test_labels(changes: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    check_parity(CARDS["modernbert-classifier"], {**TINY, **changes}, chunks=(None,))


def test_every_claim() -> None:
    check_model(CARDS["modernbert"], TINY, {**TINY, **BIASES, "global_attn_every_n_layers": 1})


def test_every_claim_of_the_classifier() -> None:
    check_model(CARDS["modernbert-classifier"], {**TINY, "num_labels": 1}, {**TINY, **BIASES, "num_labels": 3})


def test_windows_and_pooling() -> None:
    config = ModernBertConfig.model_validate({**TINY, "local_attention": 128, "max_position_embeddings": 8192})
    assert [config.window(layer) for layer in range(3)] == [None, 65, 65]
    assert [config.rope_for(layer).rope_theta for layer in (0, 1)] == [160_000.0, 10_000.0]
    assert config.pooling() == "cls"
    assert ModernBertConfig.model_validate({**TINY, "classifier_pooling": "mean"}).pooling() == "mean"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
        ({"classifier_pooling": "max"}, "classifier_pooling"),
        ({"local_attention": -1}, "local_attention"),
        ({"hidden_activation": "mish"}, "'mish'"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS["modernbert"], {**TINY, **keys}, {})
