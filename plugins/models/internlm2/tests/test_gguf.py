"""GGUF's names and metadata of InternLM2."""

from __future__ import annotations

from typing import Any

import dovetail_models_internlm2
import pytest
from dovetail_models_internlm2.config import InternLM2Config
from dovetail_models_internlm2.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_internlm2.dovetail_register_models()

METADATA: dict[str, Any] = {
    "internlm2.vocab_size": 61,
    "internlm2.context_length": 128,
    "internlm2.embedding_length": 48,
    "internlm2.block_count": 2,
    "internlm2.feed_forward_length": 80,
    "internlm2.attention.head_count": 4,
    "internlm2.attention.head_count_kv": 2,
    "internlm2.attention.layer_norm_rms_epsilon": 1e-5,
    "internlm2.rope.freq_base": 1e6,
}
TOP = ("token_embd.weight", "output_norm.weight", "output.weight")
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{i}.{name}.weight" for i in range(2) for name in LAYER)]
    expected = set(random_checkpoint(CARD, NAMING.config("internlm2", METADATA)))
    assert {NAMING.rename(name) for name in names} == expected
    assert NAMING.rename("blk.1.ffn_up.weight") == "model.layers.1.feed_forward.w3.weight"


def test_rotary_pairs_are_adjacent_rows() -> None:
    config = NAMING.config("internlm2", METADATA)
    head = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    q = NAMING.row_order("model.layers.0.attention.wq.weight", config)
    assert list(q) == [12 * i + row for i in range(4) for row in head]
    k = NAMING.row_order("model.layers.1.attention.wk.weight", config)
    assert list(k) == [12 * i + row for i in range(2) for row in head]
    assert NAMING.row_order("model.layers.0.attention.wv.weight", config) is None


def test_config() -> None:
    scaling = {"internlm2.rope.scaling.type": "linear", "internlm2.rope.scaling.factor": 2.0}
    config = InternLM2Config.model_validate(NAMING.config("internlm2", METADATA | scaling))
    assert (config.num_key_value_heads, config.rms_norm_eps, config.bias) == (2, 1e-5, "optional")
    rope = config.rope_for(0)
    assert (rope.rope_type, rope.factor, rope.rope_theta) == ("linear", 2.0, 1e6)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lacks the key internlm2\.feed_forward_length"):
        NAMING.config("internlm2", {key: value for key, value in METADATA.items() if "feed" not in key})
