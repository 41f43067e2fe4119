"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_falcon
import pytest
from dovetail_models_falcon.config import FalconConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_falcon.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
BIASED: dict[str, Any] = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
NEW: dict[str, Any] = {"new_decoder_architecture": True, "num_kv_heads": 2}


def test_registration() -> None:
    check_registration(dovetail_models_falcon)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, **NEW, "bias": True, "tie_word_embeddings": False}, {**TINY, **BIASED})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, {**TINY, **BIASED})


def test_defaults() -> None:
    config = FalconConfig.model_validate(TINY)
    assert (config.num_key_value_heads, config.intermediate_size, config.num_ln_in_parallel_attn) == (1, 192, 1)
    new = FalconConfig.model_validate({**TINY, "new_decoder_architecture": True})
    assert (new.num_key_value_heads, new.num_ln_in_parallel_attn) == (4, 2)
    null = FalconConfig.model_validate({**TINY, "multi_query": None, "parallel_attn": None})
    assert (null.num_key_value_heads, null.parallel_attn) == (4, False)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({**NEW, "num_kv_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"multi_query": False, "num_kv_heads": 2}, "num_kv_heads is 2, wanted one for each head"),
        ({**NEW, "parallel_attn": False}, "parallel_attn is false"),
        ({**NEW, "num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn is 3, wanted 1 or 2"),
        ({"num_ln_in_parallel_attn": 2}, "wanted 1 without new_decoder_architecture"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"sliding_window": 9}, "'sliding_attention'"),
        ({"activation": "mish"}, "'mish'"),
        ({"hidden_size": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
