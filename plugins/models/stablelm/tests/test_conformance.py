"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_stablelm
import pytest
from dovetail_models_stablelm.config import StableLmConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_stablelm.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 128,
}
LARGEST: dict[str, Any] = {"use_parallel_residual": True, "qk_layernorm": True}


def test_registration() -> None:
    check_registration(dovetail_models_stablelm)


def test_every_claim() -> None:
    check_model(CARD, {**TINY, "use_qkv_bias": True}, {**TINY, **LARGEST, "tie_word_embeddings": True})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_defaults() -> None:
    config = StableLmConfig.model_validate(
        {
            "vocab_size": 61,
            "hidden_size": 1024,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 32,
        }
    )
    assert (config.num_key_value_heads, config.max_position_embeddings, config.rotary_dim(0)) == (32, 4096, 8)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"num_key_value_heads": None}, "not a multiple of num_key_value_heads 32"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"sliding_window": 9}, "'sliding_attention'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"partial_rotary_factor": 0.25}, "is 3"),
        ({"hidden_size": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
