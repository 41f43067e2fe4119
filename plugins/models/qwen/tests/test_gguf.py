"""GGUF's names and metadata of Qwen 2 and 3."""

from __future__ import annotations

from typing import Any

import dovetail_models_qwen
import pytest
from dovetail_models_qwen.config import Qwen2Config, Qwen3Config
from dovetail_models_qwen.gguf import QWEN2_NAMING, QWEN3_NAMING

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARDS = {card.name: card for card in dovetail_models_qwen.dovetail_register_models()}

KEYS: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 128,
    "embedding_length": 48,
    "block_count": 2,
    "feed_forward_length": 80,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1000000.0,
}
SIZES = {"attention.key_length": 16, "attention.value_length": 16}
TOP = ("token_embd.weight", "output_norm.weight", "output.weight")
WEIGHTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
LAYERS = {
    "qwen2": (*(f"{name}.weight" for name in WEIGHTS), "attn_q.bias", "attn_k.bias", "attn_v.bias"),
    "qwen3": (*(f"{name}.weight" for name in WEIGHTS), "attn_q_norm.weight", "attn_k_norm.weight"),
}
"""What llama.cpp's conversion writes."""
NAMINGS = {"qwen2": QWEN2_NAMING, "qwen3": QWEN3_NAMING}


def metadata(name: str, **more: Any) -> dict[str, Any]:
    keys = {
        **KEYS,
        **(SIZES if name == "qwen3" else {}),
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return {f"{name}.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize("name", NAMINGS)
def test_the_names_are_those_that_the_model_expects(name: str) -> None:
    naming = NAMINGS[name]
    names = [*TOP, *(f"blk.{layer}.{part}" for layer in range(2) for part in LAYERS[name])]
    assert {naming.rename(part) for part in names} == set(
        random_checkpoint(CARDS[name], naming.config(name, metadata(name)))
    )
    assert naming.rename("blk.1.attn_k.bias") == "model.layers.1.self_attn.k_proj.bias"
    assert naming.rename("cls.output.weight") == "cls.output.weight"
    assert naming.row_order("model.layers.0.self_attn.q_proj.weight", naming.config(name, metadata(name))) is None


def test_config() -> None:
    second = Qwen2Config.model_validate(QWEN2_NAMING.config("qwen2", metadata("qwen2", attention__sliding_window=9)))
    assert (second.head_dim, second.num_key_value_heads, second.rope_for(0).rope_theta) == (12, 2, 1e6)
    assert (second.architectures, second.window(1)) == (("Qwen2ForCausalLM",), None)  # llama.cpp has none, too
    third = Qwen3Config.model_validate(QWEN3_NAMING.config("qwen3", metadata("qwen3") | {"tied_embeddings": True}))
    assert (third.head_dim, third.architectures, third.tie_word_embeddings) == (16, ("Qwen3ForCausalLM",), True)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"block_count": None}, r"lacks the key qwen3\.block_count"),
        ({"rope__dimension_count": 8}, r"rope\.dimension_count = 8, wanted the head size 16"),
        ({"attention__value_length": 8}, r"attention\.value_length = 8, wanted the head size 16"),
        ({"pooling_type": 4}, r"pooling_type = 4, wanted a model with the whole head, or none"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        QWEN3_NAMING.config(
            "qwen3", {key: value for key, value in metadata("qwen3", **keys).items() if value is not None}
        )
