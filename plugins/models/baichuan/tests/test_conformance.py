"""The conformance kit, and what the configuration reads and refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_baichuan
import pytest
from dovetail_models_baichuan.config import BaichuanConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration

(CARD,) = dovetail_models_baichuan.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}
ROPE, ALIBI = {"max_position_embeddings": 128}, {"model_max_length": 128}


def test_registration() -> None:
    check_registration(dovetail_models_baichuan)


def test_every_claim() -> None:
    apart = {"projections": "q_proj, k_proj, v_proj", "tie_word_embeddings": True}
    check_model(CARD, {**TINY, **ALIBI, "normalized_head": True}, {**TINY, **ROPE, **apart})


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "rope"),
        (ROPE, "rope"),
        (ALIBI, "alibi"),
        (ROPE | ALIBI, "rope"),
        (ROPE | {"position_embedding": "alibi"}, "alibi"),
        (ALIBI | {"position_embedding": "rope"}, "rope"),
    ],
)
def test_the_context_says_how_positions_are_seen(keys: dict[str, Any], kind: str) -> None:
    config = BaichuanConfig.model_validate({**TINY, **keys})
    assert config.position_embedding == kind
    assert config.has_rope(0) == (kind == "rope")
    assert (config.slopes() is None) == (kind == "rope")
    assert config.context_length() == (128 if keys else 4096)


def test_the_vocabulary_says_whether_the_head_is_normalized() -> None:
    assert not BaichuanConfig.model_validate(TINY).normalized_head
    second = {**TINY, "vocab_size": 125696}
    assert BaichuanConfig.model_validate(second).normalized_head
    assert not BaichuanConfig.model_validate({**second, "normalized_head": False}).normalized_head


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 .* 5"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted one for each head"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"position_embedding": "learned"}, "position_embedding"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
