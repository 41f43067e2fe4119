"""GGUF's names and metadata of Command R and its relatives."""

from __future__ import annotations

from typing import Any

import dovetail_models_cohere
import pytest
from dovetail_models_cohere.config import Cohere2Config, CohereConfig
from dovetail_models_cohere.gguf import COHERE2_NAMING, COHERE_NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARDS = {card.name: card for card in dovetail_models_cohere.dovetail_register_models()}

KEYS: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 128,
    "embedding_length": 48,
    "block_count": 4,
    "feed_forward_length": 80,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.freq_base": 50000.0,
    "rope.scaling.type": "none",
    "logit_scale": 0.25,
}
OWN = {"command-r": {}, "cohere2": {"attention.sliding_window": 9, "rope.dimension_count": 12}}
NAMINGS = {"command-r": COHERE_NAMING, "cohere2": COHERE2_NAMING}
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""What llama.cpp's conversion writes."""


def metadata(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    keys = {**KEYS, **OWN[name], **(changes or {})}
    found = {f"{name}.{key}": value for key, value in keys.items() if value is not None}
    return {**found, "tied_embeddings": True}


@pytest.mark.parametrize(
    ("name", "card", "layers"), [("command-r", "cohere", 4), ("command-r", "cohere", 64), ("cohere2", "cohere2", 4)]
)
def test_the_names_are_those_that_the_model_expects(name: str, card: str, layers: int) -> None:
    naming, parts = NAMINGS[name], (*LAYER, *(("attn_q_norm", "attn_k_norm") if layers == 64 else ()))
    config = naming.config(name, metadata(name, {"block_count": layers}))
    assert config["architectures"] == list(CARDS[card].architectures)
    names = ["token_embd", "output_norm", *(f"blk.{layer}.{part}" for layer in range(layers) for part in parts)]
    assert {naming.rename(f"{part}.weight") for part in names} == set(random_checkpoint(CARDS[card], config))
    assert naming.rename("blk.0.ffn_norm.weight") == "blk.0.ffn_norm.weight"
    assert naming.row_order("model.layers.0.self_attn.q_proj.weight", config) is None


def test_config() -> None:
    first = CohereConfig.model_validate(COHERE_NAMING.config("command-r", metadata("command-r")))
    assert (first.logit_scale, first.layer_norm_eps, first.tie_word_embeddings) == (0.25, 1e-5, True)
    assert (first.use_qk_norm, first.rope_for(0).rope_theta, first.head_dim) == (False, 50000.0, 12)
    second = Cohere2Config.model_validate(COHERE2_NAMING.config("cohere2", metadata("cohere2")))
    assert [second.window(layer) for layer in range(4)] == [9, 9, 9, None]
    assert (second.logit_scale, second.has_rope(3)) == (0.25, False)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("command-r", {"logit_scale": None}, r"lacks the key command-r\.logit_scale"),
        ("command-r", {"rope.dimension_count": 6}, r"rope\.dimension_count = 6, wanted the head size 12"),
        ("cohere2", {"attention.sliding_window": None}, r"lacks the key cohere2\.attention\.sliding_window"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(name: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        NAMINGS[name].config(name, metadata(name, changes))
