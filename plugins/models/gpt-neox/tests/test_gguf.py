"""GGUF's names and metadata of GPT-NeoX."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt_neox
import pytest
from dovetail_models_gpt_neox.config import GPTNeoXConfig
from dovetail_models_gpt_neox.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_gpt_neox.dovetail_register_models()

METADATA: dict[str, Any] = {
    "gptneox.vocab_size": 61,
    "gptneox.context_length": 128,
    "gptneox.embedding_length": 48,
    "gptneox.block_count": 2,
    "gptneox.feed_forward_length": 80,
    "gptneox.attention.head_count": 4,
    "gptneox.attention.layer_norm_epsilon": 1e-5,
    "gptneox.rope.dimension_count": 6,
    "gptneox.use_parallel_residual": False,
}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight")
LAYER = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes, each with a bias."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.{part}" for i in range(2) for name in LAYER for part in ("weight", "bias"))]
    expected = random_checkpoint(CARD, NAMING.config("gptneox", METADATA), optional=True)
    assert {NAMING.rename(name) for name in names} == set(expected)


def test_rows_are_in_order() -> None:
    config = NAMING.config("gptneox", METADATA)
    assert NAMING.row_order("gpt_neox.layers.0.attention.query_key_value.weight", config) is None


def test_config() -> None:
    config = GPTNeoXConfig.model_validate(NAMING.config("gptneox", METADATA))
    assert (config.rotary_dim(0), config.use_parallel_residual, config.num_key_value_heads) == (6, False, 4)
    more = {"gptneox.rope.dimension_count": 12, "gptneox.rope.freq_base": 500.0}
    other = GPTNeoXConfig.model_validate(NAMING.config("gptneox", METADATA | more))
    assert (other.rotary_dim(0), other.rope_for(0).rope_theta) == (12, 500.0)
    with pytest.raises(ConfigError, match=r"lacks the key gptneox\.rope\.dimension_count"):
        NAMING.config("gptneox", {key: value for key, value in METADATA.items() if "rope" not in key})
