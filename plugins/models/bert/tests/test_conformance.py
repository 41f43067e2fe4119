"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_bert
import pytest
from dovetail_models_bert.config import BertConfig, RobertaConfig

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration

ENCODER, CLASSIFIER, ROBERTA, CROSS_ENCODER, *_ = dovetail_models_bert.dovetail_register_models()

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_bert)


def test_every_claim_of_the_encoder() -> None:
    check_model(ENCODER, TINY)


def test_every_claim_of_the_classifier() -> None:
    check_model(CLASSIFIER, TINY, {**TINY, "num_labels": 3})


def test_every_claim_of_roberta() -> None:
    check_model(ROBERTA, TINY, {**TINY, "pad_token_id": 0})
    check_model(CROSS_ENCODER, {**TINY, "num_labels": 1}, {**TINY, "num_labels": 3})


def test_positions_of_roberta_begin_after_the_padding() -> None:
    assert RobertaConfig.model_validate({**TINY, "max_position_embeddings": 130}).context_length() == 128
    assert RobertaConfig.model_validate({**TINY, "pad_token_id": 0}).position_offset == 1


def test_labels_are_counted() -> None:
    assert BertConfig.model_validate(TINY).num_labels == 2
    assert BertConfig.model_validate({**TINY, "num_labels": 5}).num_labels == 5
    assert BertConfig.model_validate({**TINY, "id2label": {"0": "a", "1": "b", "2": "c"}}).num_labels == 3


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_attention_heads": 5}, "hidden_size 48 is not a multiple of num_attention_heads 5"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"intermediate_size": None}, "intermediate_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(ENCODER, {**TINY, **keys}, {})
