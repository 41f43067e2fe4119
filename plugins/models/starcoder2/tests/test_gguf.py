"""GGUF's names and metadata of StarCoder2."""

from __future__ import annotations

from typing import Any

import dovetail_models_starcoder2
import pytest
from dovetail_models_starcoder2.config import Starcoder2Config
from dovetail_models_starcoder2.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_starcoder2.dovetail_register_models()

METADATA: dict[str, Any] = {
    "starcoder2.vocab_size": 61,
    "starcoder2.context_length": 128,
    "starcoder2.embedding_length": 48,
    "starcoder2.block_count": 2,
    "starcoder2.feed_forward_length": 80,
    "starcoder2.attention.head_count": 4,
    "starcoder2.attention.head_count_kv": 2,
    "starcoder2.attention.layer_norm_epsilon": 1e-5,
    "starcoder2.rope.freq_base": 500.0,
    "tied_embeddings": True,
}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias")
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes, each with a bias."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.{part}" for i in range(2) for name in LAYER for part in ("weight", "bias"))]
    expected = set(random_checkpoint(CARD, NAMING.config("starcoder2", METADATA), optional=True))
    assert {NAMING.rename(name) for name in names} == expected - {"lm_head.weight"}
    assert NAMING.rename("output.weight") == "lm_head.weight"


def test_config() -> None:
    config = Starcoder2Config.model_validate(NAMING.config("starcoder2", METADATA))
    assert (config.num_key_value_heads, config.rope_for(0).rope_theta, config.window(0)) == (2, 500.0, None)
    assert config.tie_word_embeddings
    windowed = NAMING.config(
        "starcoder2", METADATA | {"starcoder2.attention.sliding_window": 9, "tied_embeddings": False}
    )
    other = Starcoder2Config.model_validate(windowed)
    assert (other.window(0), other.tie_word_embeddings) == (9, False)
    with pytest.raises(ConfigError, match=r"lacks the key starcoder2\.block_count"):
        NAMING.config("starcoder2", {key: value for key, value in METADATA.items() if "block_count" not in key})
