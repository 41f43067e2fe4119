"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_bloom
import pytest
from dovetail_models_bloom.config import BloomConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_bloom.dovetail_register_models()

TINY: dict[str, Any] = {"vocab_size": 61, "hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": 128}


def test_registration() -> None:
    check_registration(dovetail_models_bloom)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "tie_word_embeddings": False, "n_head": 4})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_the_context_is_that_of_the_training() -> None:
    assert BloomConfig.model_validate(TINY).context_length() == 128
    silent = {key: value for key, value in TINY.items() if key != "seq_length"}
    assert BloomConfig.model_validate(silent).context_length() == 2048


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm is not supp"),
        ({"n_head": 5}, "hidden_size 48 .* 5"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted one for each head"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"hidden_size": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
