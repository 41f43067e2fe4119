"""GGUF's names and metadata of OLMo 2 and 3."""

from __future__ import annotations

from typing import Any

import dovetail_models_olmo
import pytest
from dovetail_models_olmo.config import Olmo2Config, Olmo3Config
from dovetail_models_olmo.gguf import OLMO2_NAMING, OLMO3_NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARDS = {card.name: card for card in dovetail_models_olmo.dovetail_register_models()}

METADATA: dict[str, Any] = {
    "olmo2.vocab_size": 61,
    "olmo2.context_length": 128,
    "olmo2.embedding_length": 48,
    "olmo2.block_count": 4,
    "olmo2.feed_forward_length": 80,
    "olmo2.attention.head_count": 4,
    "olmo2.attention.head_count_kv": 2,
    "olmo2.attention.layer_norm_rms_epsilon": 1e-6,
    "olmo2.rope.freq_base": 400000.0,
    "olmo2.rope.scaling.type": "yarn",
    "olmo2.rope.scaling.factor": 8.0,
    "olmo2.rope.scaling.original_context_length": 32,
}
WINDOW = {"olmo2.attention.sliding_window": 9}
TOP = ("token_embd", "output_norm", "output")
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm", "post_attention_norm")
LAYER = (*ATTENTION, "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm")
"""What llama.cpp's conversion writes."""


@pytest.mark.parametrize(("name", "naming"), [("olmo2", OLMO2_NAMING), ("olmo3", OLMO3_NAMING)])
def test_the_names_are_those_that_the_model_expects(name: str, naming: Any) -> None:
    config = naming.config("olmo2", METADATA | (WINDOW if name == "olmo3" else {}))
    assert config["architectures"] == list(CARDS[name].architectures)
    names = [*TOP, *(f"blk.{layer}.{part}" for layer in range(4) for part in LAYER)]
    assert {naming.rename(f"{part}.weight") for part in names} == set(random_checkpoint(CARDS[name], config))
    assert naming.rename("blk.0.attn_norm.weight") == "blk.0.attn_norm.weight"
    assert naming.row_order("model.layers.0.self_attn.q_proj.weight", config) is None


def test_config() -> None:
    second = Olmo2Config.model_validate(OLMO2_NAMING.config("olmo2", METADATA))
    assert (second.rms_norm_eps, second.rope_for(0).rope_type, second.rope_for(0).rope_theta) == (1e-6, "yarn", 4e5)
    third = Olmo3Config.model_validate(OLMO3_NAMING.config("olmo2", METADATA | WINDOW))
    assert [third.window(layer) for layer in range(4)] == [9, 9, 9, None]
    assert [third.rope_for(layer).rope_type for layer in range(4)] == [*["default"] * 3, "yarn"]
    assert {third.rope_for(layer).rope_theta for layer in range(4)} == {4e5}


def test_a_file_is_read_as_one_of_them() -> None:
    with pytest.raises(ConfigError, match=r"sliding_window = 9, wanted none, as in an OLMo 2"):
        OLMO2_NAMING.config("olmo2", METADATA | WINDOW)
    with pytest.raises(ConfigError, match=r"lacks the key olmo2\.attention\.sliding_window"):
        OLMO3_NAMING.config("olmo2", METADATA)


@pytest.mark.parametrize("naming", [OLMO2_NAMING, OLMO3_NAMING])
def test_metadata_that_cannot_be_honoured_is_refused(naming: Any) -> None:
    with pytest.raises(ConfigError, match=r"rope\.dimension_count = 6, wanted the head size 12"):
        naming.config("olmo2", METADATA | {"olmo2.rope.dimension_count": 6})
