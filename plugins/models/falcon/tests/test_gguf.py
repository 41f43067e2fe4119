"""GGUF's names and metadata of Falcon."""

from __future__ import annotations

from typing import Any

import dovetail_models_falcon
import pytest
from dovetail_models_falcon.config import FalconConfig
from dovetail_models_falcon.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARD, *_ = dovetail_models_falcon.dovetail_register_models()

METADATA: dict[str, Any] = {
    "falcon.vocab_size": 61,
    "falcon.context_length": 128,
    "falcon.embedding_length": 48,
    "falcon.block_count": 2,
    "falcon.feed_forward_length": 192,
    "falcon.attention.head_count": 4,
    "falcon.attention.head_count_kv": 1,
    "falcon.attention.layer_norm_epsilon": 1e-5,
}
GROUPS = METADATA | {"falcon.attention.head_count_kv": 2}
TOP = ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight")
NORMS = ("attn_norm",)
PLAIN = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes; norms have biases."""


@pytest.mark.parametrize(
    ("metadata", "more", "norms"),
    [
        (METADATA, {}, NORMS),
        (GROUPS, {}, NORMS),
        (GROUPS, {"num_ln_in_parallel_attn": 2}, ("attn_norm", "attn_norm_2")),
    ],
)
def test_the_names_are_those_that_the_model_expects(
    metadata: dict[str, Any], more: dict[str, Any], norms: tuple[str, ...]
) -> None:
    names = [*TOP, *(f"blk.{i}.{name}.weight" for i in range(2) for name in PLAIN)]
    names += [f"blk.{i}.{name}.{part}" for i in range(2) for name in norms for part in ("weight", "bias")]
    expected = set(random_checkpoint(CARD, NAMING.config("falcon", metadata) | more))
    assert {NAMING.rename(name) for name in names} == expected


def test_rows_are_in_order() -> None:
    config = NAMING.config("falcon", GROUPS)
    assert NAMING.row_order("transformer.h.0.self_attention.query_key_value.weight", config) is None


@pytest.mark.parametrize(
    ("hidden", "heads", "kv", "new", "norms"),
    [(4544, 71, 1, False, 1), (8192, 128, 8, True, 2), (14848, 232, 8, True, 2), (4096, 32, 8, True, 1)],
)
def test_config(hidden: int, heads: int, kv: int, new: bool, norms: int) -> None:
    sizes = {"embedding_length": hidden, "attention.head_count": heads, "attention.head_count_kv": kv}
    keys = METADATA | {f"falcon.{name}": value for name, value in sizes.items()}
    config = FalconConfig.model_validate(NAMING.config("falcon", keys))
    assert (config.new_decoder_architecture, config.num_ln_in_parallel_attn) == (new, norms)
    assert (config.num_key_value_heads, config.intermediate_size) == (kv, 192)


def test_what_no_key_describes_is_refused() -> None:
    with pytest.raises(ConfigError, match="head_count_kv = 4, wanted fewer than heads: the others have ALiBi"):
        NAMING.config("falcon", METADATA | {"falcon.attention.head_count_kv": 4})
    with pytest.raises(ConfigError, match=r"lacks the key falcon\.attention\.head_count_kv"):
        NAMING.config("falcon", {key: value for key, value in METADATA.items() if "_kv" not in key})
