"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt_neox
import pytest
from dovetail_models_gpt_neox.config import GPTNeoXConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_gpt_neox.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rotary_pct": 0.5,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_gpt_neox)


def test_every_claim() -> None:
    other = {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
    check_model(CARD, TINY, {**TINY, **other})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_rotary_embeddings_have_names_of_their_own() -> None:
    keys = {"rotary_emb_base": 500, "rope_theta": 300, "partial_rotary_factor": 1.0}
    rope = GPTNeoXConfig.model_validate({**TINY, **keys}).rope_for(0)
    assert (rope.rope_theta, rope.partial_rotary_factor) == (500.0, 0.5)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted one for each head"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"sliding_window": 9}, "'sliding_attention'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"rotary_pct": 0.25}, "is 3"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
