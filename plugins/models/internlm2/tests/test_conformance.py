"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_internlm2
import pytest
from dovetail_models_internlm2.config import InternLM2Config

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_internlm2.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_internlm2)


def test_every_claim() -> None:
    apart = {"projections": "wq, wk, wv", "bias": False, "tie_word_embeddings": True}
    check_model(CARD, TINY, {**TINY, **apart, "rope_scaling": {"type": "dynamic", "factor": 2.0}})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_attention_has_biases_where_the_file_is_silent() -> None:
    assert InternLM2Config.model_validate(TINY).bias is True


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn' is not supported, only default, linear, dynamic"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"sliding_window": 9}, "'sliding_attention'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
