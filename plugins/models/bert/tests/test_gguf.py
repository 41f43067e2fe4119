"""GGUF's names and metadata of BERT and Nomic's BERT."""

from __future__ import annotations

from typing import Any

import pytest
from dovetail_models_bert import dovetail_register_models
from dovetail_models_bert.config import BertConfig, NomicBertConfig
from dovetail_models_bert.gguf import BERT, NOMIC_BERT, BertNaming

from dovetail.api import ConfigError
from dovetail.testing import random_checkpoint

CARDS = {card.name: card for card in dovetail_register_models()}
TOP = ("token_embd.weight", "token_types.weight", "token_embd_norm.weight", "token_embd_norm.bias")
LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down", "layer_output_norm")
"""What llama.cpp's conversion of BERT writes, each with a bias."""
PLAIN, NORMS = ("attn_qkv", "attn_output", "ffn_up", "ffn_gate", "ffn_down"), ("attn_output_norm", "layer_output_norm")
"""What that of Nomic's writes, the norms with a bias."""


def metadata(architecture: str, **more: Any) -> dict[str, Any]:
    keys = {
        "vocab_size": 61,
        "context_length": 128,
        "embedding_length": 48,
        "block_count": 2,
        "feed_forward_length": 80,
        "attention.head_count": 4,
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": 1,
        **more,
    }
    return {f"{architecture}.{key}": value for key, value in keys.items()} | {"tokenizer.ggml.token_type_count": 1}


def test_the_names_of_bert() -> None:
    names = [*TOP, "position_embd.weight"]
    names += [f"blk.{layer}.{name}.{part}" for layer in range(2) for name in LAYER for part in ("weight", "bias")]
    config = BERT.config("bert", metadata("bert"))
    assert {BERT.rename(name) for name in names} == set(random_checkpoint(CARDS["bert"], config))
    read = BertConfig.model_validate(config)
    assert (read.type_vocab_size, read.pooling(), read.context_length(), read.hidden_act) == (1, "mean", 128, "gelu")


def test_the_names_of_nomic_bert() -> None:
    names = [*TOP, *(f"blk.{layer}.{name}.weight" for layer in range(2) for name in (*PLAIN, *NORMS))]
    names += [f"blk.{layer}.{name}.bias" for layer in range(2) for name in NORMS]
    config = NOMIC_BERT.config("nomic-bert", metadata("nomic-bert", pooling_type=2, **{"rope.freq_base": 500.0}))
    assert {NOMIC_BERT.rename(name) for name in names} == set(random_checkpoint(CARDS["nomic-bert"], config))
    assert NOMIC_BERT.rename("blk.1.ffn_up.weight") == "encoder.layers.1.mlp.fc11.weight"
    read = NomicBertConfig.model_validate(config)
    assert (read.pooling(), read.rope_for(0).rope_theta, read.hidden_act) == ("cls", 500.0, "silu")


@pytest.mark.parametrize(("naming", "name"), [(BERT, "bert"), (NOMIC_BERT, "nomic-bert")])
@pytest.mark.parametrize(
    ("keys", "told"), [({"pooling_type": 4}, "pooling_type = 4"), ({"attention.causal": True}, "causal = True")]
)
def test_what_is_no_such_encoder_is_refused(naming: BertNaming, name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        naming.config(name, metadata(name, **keys))


def test_pooling_of_none_is_left_to_the_card() -> None:
    config = BERT.config("bert", metadata("bert", pooling_type=0))
    assert BertConfig.model_validate(config).pooling() is None
