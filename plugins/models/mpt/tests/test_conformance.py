"""The conformance kit, and what the configuration refuses."""

from __future__ import annotations

from typing import Any

import dovetail_models_mpt
import pytest
from dovetail_models_mpt.config import MptConfig

from dovetail.api import ConfigError, ModelCard
from dovetail.testing import build_model, check_model, check_registration

CARD, EMBEDDING, CLASSIFIER = dovetail_models_mpt.dovetail_register_models()

TINY: dict[str, Any] = {"vocab_size": 61, "d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": 128}


def test_registration() -> None:
    check_registration(dovetail_models_mpt)


def test_every_claim() -> None:
    check_model(CARD, TINY, {**TINY, "n_heads": 4, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3}})


@pytest.mark.parametrize("card", [EMBEDDING, CLASSIFIER])
def test_every_claim_of_the_others(card: ModelCard) -> None:
    check_model(card, TINY)


def test_slopes_end_in_the_largest_bias() -> None:
    keys = {**TINY, "n_heads": 4}
    assert MptConfig.model_validate(keys).slopes() == (0.25, 0.0625, 2**-6, 2**-8)
    longer = MptConfig.model_validate({**keys, "attn_config": {"alibi_bias_max": 16}})
    assert longer.slopes() == (2**-4, 2**-8, 2**-12, 2**-16)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"attn_config": {"alibi": False}}, "alibi"),
        ({"attn_config": {"qk_ln": True}}, "attn_config's qk_ln is True, which is not supported, only False"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type is 'multiquery_attention'"),
        ({"attn_config": {"prefix_lm": True}}, "prefix_lm"),
        ({"attn_config": {"clip_qkv": -1.0}}, "clip_qkv"),
        ({"attn_config": "torch"}, "attn_config is 'torch', wanted an object"),
        ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model', which is not supported"),
        ({"no_bias": False}, "no_bias"),
        ({"norm_type": "rmsnorm"}, "norm_type"),
        ({"expansion_ratio": 2}, "expansion_ratio"),
        ({"n_heads": 5}, "hidden_size 48 .* 5"),
        ({"d_model": None}, "hidden_size: is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARD, {**TINY, **keys}, {})
