"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_starcoder2
import pytest
from dovetail_models_starcoder2.config import Starcoder2Config

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_starcoder2.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "sliding_window": 9,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_starcoder2)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "sliding_window": None, "use_bias": False, "tie_word_embeddings": False})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_defaults() -> None:
    config = Starcoder2Config.model_validate({**TINY, "max_position_embeddings": None})
    assert (config.num_key_value_heads, config.max_position_embeddings, config.window(0)) == (2, 4096, 9)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"hidden_size": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
