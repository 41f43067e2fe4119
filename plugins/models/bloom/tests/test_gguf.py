"""GGUF's names and metadata of Bloom."""

from __future__ import annotations

from typing import Any

import dovetail_models_bloom
import pytest
from dovetail_models_bloom.config import BloomConfig
from dovetail_models_bloom.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_bloom.dovetail_register_models()

METADATA: dict[str, Any] = {
    "bloom.vocab_size": 61,
    "bloom.context_length": 128,
    "bloom.embedding_length": 48,
    "bloom.block_count": 2,
    "bloom.feed_forward_length": 192,
    "bloom.attention.head_count": 6,
    "bloom.attention.head_count_kv": 6,
    "bloom.attention.layer_norm_epsilon": 1e-4,
}
TOP = ("token_embd", "token_embd_norm", "output_norm", "output")
LAYER = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes; all but embedding and head have biases."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}" for i in range(2) for name in LAYER)]
    biased = [f"{name}.bias" for name in names if name not in ("token_embd", "output")]
    expected = set(random_checkpoint(CARD, NAMING.config("bloom", METADATA)))
    assert {NAMING.rename(name) for name in (*biased, *(f"{name}.weight" for name in names))} == expected


def test_rows_are_in_order() -> None:
    name = "transformer.h.0.self_attention.query_key_value.weight"
    assert NAMING.row_order(name, NAMING.config("bloom", METADATA)) is None


def test_config() -> None:
    config = BloomConfig.model_validate(NAMING.config("bloom", METADATA))
    assert (config.num_attention_heads, config.layer_norm_epsilon, config.context_length()) == (6, 1e-4, 128)
    tied = BloomConfig.model_validate(NAMING.config("bloom", METADATA | {"tied_embeddings": True}))
    assert (config.tie_word_embeddings, tied.tie_word_embeddings) == (False, True)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lacks the key bloom\.attention\.layer_norm_epsilon"):
        NAMING.config("bloom", {key: value for key, value in METADATA.items() if "norm" not in key})
