"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_phi
import pytest

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration

(CARD,) = dovetail_models_phi.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_phi)


@pytest.mark.parametrize("changes", [{}, {"qk_layernorm": True, "num_key_value_heads": 2, "tie_word_embeddings": True}])
def test_every_claim(changes: dict[str, Any]) -> None:
    check_model(CARD, {**TINY, **changes})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"partial_rotary_factor": 0.25}, "is 3"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
