"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt2
import pytest
from dovetail_models_gpt2.config import GPT2Config

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration

(CARD,) = dovetail_models_gpt2.dovetail_register_models()

TINY: dict[str, Any] = {"vocab_size": 61, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}


def test_registration() -> None:
    check_registration(dovetail_models_gpt2)


@pytest.mark.parametrize("changes", [{}, {"n_inner": 80, "tie_word_embeddings": False}])
def test_every_claim(changes: dict[str, Any]) -> None:
    check_model(CARD, {**TINY, **changes})


def test_keys_of_the_file_and_of_the_framework() -> None:
    config = GPT2Config.model_validate(TINY | {"n_inner": None})
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 2, 4)
    assert (config.max_position_embeddings, config.intermediate_size, config.head_dim) == (128, 192, 12)
    assert config.context_length() == 128
    assert config.tie_word_embeddings
    long = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    assert GPT2Config.model_validate(long).max_position_embeddings == 1024


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"n_head": 5}, "hidden_size 48 is not a multiple of num_attention_heads 5"),
        ({"activation_function": "mish"}, "hidden_act"),
        ({"add_cross_attention": True}, "add_cross_attention is not supported"),
        ({"n_embd": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
