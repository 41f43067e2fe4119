"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_olmo
import pytest
from dovetail_models_olmo.config import Olmo2Config, Olmo3Config

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARDS = {card.name: card for card in dovetail_models_olmo.dovetail_register_models()}

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "sliding_window": 9,
}
MIXED = ["sliding_attention", "full_attention"]


def test_registration() -> None:
    check_registration(dovetail_models_olmo)


@pytest.mark.parametrize("name", ["olmo2", "olmo3"])
def test_every_claim(name: str) -> None:
    check_model(CARDS[name], TINY, {**TINY, "layer_types": MIXED, "tie_word_embeddings": True, "attention_bias": True})


@pytest.mark.parametrize("card", [card for card in CARDS.values() if card.tasks != ("generate",)], ids=lambda c: c.name)
def test_every_claim_of_other_tasks(card: ModelCard) -> None:
    check_model(card, {**TINY, "layer_types": MIXED, "num_labels": 3})


def test_keys_that_are_missing_have_the_original_s_values() -> None:
    sizes = {key: value for key, value in TINY.items() if key not in ("sliding_window", "num_key_value_heads")}
    whole = {**sizes, "num_hidden_layers": 5, "max_position_embeddings": 65536}
    second, third = Olmo2Config.model_validate(whole), Olmo3Config.model_validate(whole)
    assert (second.num_key_value_heads, second.rms_norm_eps, second.rope_for(0).rope_theta) == (4, 1e-5, 10000.0)
    assert [third.window(layer) for layer in range(5)] == [4096, 4096, 4096, None, 4096]
    assert {third.rope_for(layer).rope_theta for layer in range(5)} == {500000.0}
    assert Olmo2Config.model_validate(TINY).window(0) is None


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("olmo2", {"hidden_act": "mish"}, "'mish'"),
        ("olmo2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("olmo2", {"rope_scaling": {"type": "longrope"}}, "'longrope' lacks long_factor and short_factor"),
        ("olmo2", {"intermediate_size": None}, "intermediate_size: is missing"),
        ("olmo3", {"sliding_window": None}, "layer_types has 'sliding_attention', and there is no sliding_window"),
        ("olmo3", {"rope_theta": 1e4}, "rope_theta is 10000, and does not say of which layers"),
        ("olmo3", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters does not say of which layers"),
        ("olmo3", {"layer_types": ["chunked_attention"] * 2}, "layer 0 is of the type 'chunked_attention'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS[name], {**TINY, **keys}, {})
