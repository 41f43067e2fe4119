"""GGUF's names and metadata of Baichuan."""

from __future__ import annotations

from typing import Any

import dovetail_models_baichuan
import pytest
from dovetail_models_baichuan.config import BaichuanConfig
from dovetail_models_baichuan.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

(CARD,) = dovetail_models_baichuan.dovetail_register_models()

METADATA: dict[str, Any] = {
    "baichuan.vocab_size": 61,
    "baichuan.context_length": 128,
    "baichuan.embedding_length": 48,
    "baichuan.block_count": 2,
    "baichuan.feed_forward_length": 80,
    "baichuan.rope.dimension_count": 12,
    "baichuan.attention.head_count": 4,
    "baichuan.attention.head_count_kv": 4,
    "baichuan.attention.layer_norm_rms_epsilon": 1e-5,
}
TOP = ("token_embd", "output_norm", "output")
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}" for i in range(2) for name in LAYER)]
    expected = set(random_checkpoint(CARD, NAMING.config("baichuan", METADATA)))
    assert {NAMING.rename(f"{name}.weight") for name in names} == expected


def test_rotary_pairs_are_adjacent_rows() -> None:
    order = NAMING.row_order("model.layers.0.self_attn.k_proj.weight", NAMING.config("baichuan", METADATA))
    assert list(order[:12]) == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert len(order) == 48


@pytest.mark.parametrize(("layers", "kind"), [(32, "rope"), (40, "alibi")])
def test_config(layers: int, kind: str) -> None:
    keys = METADATA | {"baichuan.block_count": layers}
    config = BaichuanConfig.model_validate(NAMING.config("baichuan", keys))
    assert (config.position_embedding, config.rms_norm_eps, config.context_length()) == (kind, 1e-5, 128)
    second = BaichuanConfig.model_validate(NAMING.config("baichuan", keys | {"baichuan.vocab_size": 125696}))
    assert (config.normalized_head, second.normalized_head) == (False, True)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lacks the key baichuan\.feed_forward_length"):
        NAMING.config("baichuan", {key: value for key, value in METADATA.items() if "feed" not in key})
