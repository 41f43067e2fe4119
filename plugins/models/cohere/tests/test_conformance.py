"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_cohere
import pytest
from dovetail_models_cohere.config import Cohere2Config, CohereConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration

CARDS = {card.name: card for card in dovetail_models_cohere.dovetail_register_models()}

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
    check_registration(dovetail_models_cohere)


def test_every_claim() -> None:
    check_model(CARDS["cohere"], TINY, {**TINY, "use_qk_norm": True, "tie_word_embeddings": False})
    check_model(CARDS["cohere-embedding"], TINY)


def test_every_claim_with_layers_without_positions() -> None:
    mixed = {**TINY, "layer_types": MIXED}
    check_model(CARDS["cohere2"], mixed, {**mixed, "attention_bias": True}, positions="some")
    check_model(CARDS["cohere2-embedding"], mixed, positions="some")


def test_keys_that_are_missing_have_the_original_s_values() -> None:
    sizes = {key: value for key, value in TINY.items() if key not in ("sliding_window", "num_key_value_heads")}
    first = CohereConfig.model_validate(sizes)
    assert (first.num_key_value_heads, first.logit_scale, first.tie_word_embeddings) == (4, 0.0625, True)
    assert (first.rope_for(0).rope_theta, first.layer_norm_eps, first.use_qk_norm) == (500000.0, 1e-5, False)
    assert CohereConfig.model_validate(TINY).window(0) is None
    second = Cohere2Config.model_validate({**sizes, "num_hidden_layers": 5, "max_position_embeddings": 8192})
    assert [second.window(layer) for layer in range(5)] == [4096, 4096, 4096, None, 4096]
    assert [second.has_rope(layer) for layer in range(5)] == [True, True, True, False, True]
    assert second.rope_for(0).rope_theta == 10000.0


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("cohere", {"hidden_act": "mish"}, "'mish'"),
        ("cohere", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("cohere", {"rope_scaling": {"type": "longrope"}}, "'longrope' lacks long_factor and short_factor"),
        ("cohere", {"logit_scale": 0.0}, "logit_scale: Input should be greater than 0"),
        ("cohere", {"intermediate_size": None}, "intermediate_size: is missing"),
        ("cohere2", {"sliding_window": None}, "layer_types has 'sliding_attention', and there is no sliding_window"),
        ("cohere2", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0, wanted a positive number of layers"),
        ("cohere2", {"layer_types": ["chunked_attention"] * 2}, "layer 0 is of the type 'chunked_attention'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS[name], {**TINY, **keys}, {})
