"""GGUF's names and metadata of GPT-2."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt2
import pytest
from dovetail_models_gpt2.config import GPT2Config
from dovetail_models_gpt2.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

(CARD,) = dovetail_models_gpt2.dovetail_register_models()

METADATA: dict[str, Any] = {
    "gpt2.vocab_size": 61,
    "gpt2.context_length": 128,
    "gpt2.embedding_length": 48,
    "gpt2.block_count": 2,
    "gpt2.feed_forward_length": 80,
    "gpt2.attention.head_count": 4,
    "gpt2.attention.layer_norm_epsilon": 1e-5,
}
TOP = ("token_embd.weight", "position_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight")
LAYER = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes, each with a bias."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.{part}" for i in range(2) for name in LAYER for part in ("weight", "bias"))]
    assert {NAMING.rename(name) for name in names} == set(random_checkpoint(CARD, NAMING.config("gpt2", METADATA)))
    assert NAMING.rename("blk.0.attn_qkv.bias") == "transformer.h.0.attn.c_attn.bias"
    assert NAMING.rename("blk.0.ffn_gate.weight") == "blk.0.ffn_gate.weight"


def test_config() -> None:
    config = GPT2Config.model_validate(NAMING.config("gpt2", METADATA))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 2, 4)
    assert (config.intermediate_size, config.max_position_embeddings, config.vocab_size) == (80, 128, 61)
    assert not config.tie_word_embeddings
    assert GPT2Config.model_validate(NAMING.config("gpt2", METADATA | {"tied_embeddings": True})).tie_word_embeddings
    with pytest.raises(ConfigError, match=r"lacks the key gpt2\.block_count"):
        NAMING.config("gpt2", {key: value for key, value in METADATA.items() if "block_count" not in key})
