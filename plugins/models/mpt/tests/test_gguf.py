"""GGUF's names and metadata of MPT."""

from __future__ import annotations

from typing import Any

import dovetail_models_mpt
import pytest
from dovetail_models_mpt.config import MptConfig
from dovetail_models_mpt.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_mpt.dovetail_register_models()

METADATA: dict[str, Any] = {
    "mpt.vocab_size": 61,
    "mpt.context_length": 128,
    "mpt.embedding_length": 48,
    "mpt.block_count": 2,
    "mpt.feed_forward_length": 192,
    "mpt.attention.head_count": 4,
    "mpt.attention.layer_norm_epsilon": 1e-5,
    "mpt.attention.max_alibi_bias": 8.0,
}
TOP = ("token_embd", "output_norm", "output")
LAYER = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}" for i in range(2) for name in LAYER)]
    expected = set(random_checkpoint(CARD, NAMING.config("mpt", METADATA)))
    assert {NAMING.rename(f"{name}.weight") for name in names} == expected


def test_config() -> None:
    plain = MptConfig.model_validate(NAMING.config("mpt", METADATA))
    assert (plain.num_key_value_heads, plain.clip_qkv, plain.slopes()[-1]) == (4, None, 2**-8)
    more = {"mpt.attention.clamp_kqv": 6.0, "mpt.attention.max_alibi_bias": 16.0}
    config = MptConfig.model_validate(NAMING.config("mpt", METADATA | more))
    assert (config.clip_qkv, config.slopes()[-1]) == (6.0, 2**-16)


def test_learned_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_alibi_bias = 0\.0, wanted a positive number: learned positions"):
        NAMING.config("mpt", METADATA | {"mpt.attention.max_alibi_bias": 0.0})
    with pytest.raises(ConfigError, match=r"lacks the key mpt\.attention\.max_alibi_bias"):
        NAMING.config("mpt", {key: value for key, value in METADATA.items() if "alibi" not in key})
