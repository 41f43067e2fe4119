"""GGUF's names and metadata of Phi-2."""

from __future__ import annotations

from typing import Any

import dovetail_models_phi
import pytest
from dovetail_models_phi.config import PhiConfig
from dovetail_models_phi.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

(CARD,) = dovetail_models_phi.dovetail_register_models()

METADATA: dict[str, Any] = {
    "phi2.vocab_size": 61,
    "phi2.context_length": 128,
    "phi2.embedding_length": 80,
    "phi2.block_count": 2,
    "phi2.feed_forward_length": 112,
    "phi2.attention.head_count": 4,
    "phi2.attention.head_count_kv": 4,
    "phi2.attention.layer_norm_epsilon": 1e-5,
    "phi2.rope.dimension_count": 8,
}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight", "output.bias")
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes, each with a bias."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.{part}" for i in range(2) for name in LAYER for part in ("weight", "bias"))]
    assert {NAMING.rename(name) for name in names} == set(random_checkpoint(CARD, NAMING.config("phi2", METADATA)))
    assert NAMING.rename("blk.1.ffn_down.bias") == "model.layers.1.mlp.fc2.bias"
    assert NAMING.rename("blk.0.ffn_gate.weight") == "blk.0.ffn_gate.weight"


@pytest.mark.parametrize(("hidden", "rotated"), [(80, 8), (96, 8), (320, 32), (224, 22), (392, 46)])
def test_config(hidden: int, rotated: int) -> None:
    changed = {"phi2.embedding_length": hidden, "phi2.rope.dimension_count": rotated}
    config = PhiConfig.model_validate(NAMING.config("phi2", METADATA | changed))
    assert config.rotary_dim(0) == rotated
    assert (config.head_dim, config.num_key_value_heads, config.hidden_act) == (hidden // 4, 4, "gelu_tanh")
    assert not config.tie_word_embeddings


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lacks the key phi2\.rope\.dimension_count"):
        NAMING.config("phi2", {key: value for key, value in METADATA.items() if "rope" not in key})
