"""GGUF's names and metadata of Gemma 2."""

from __future__ import annotations

from typing import Any

import dovetail_models_gemma
import pytest
import torch
from dovetail_models_gemma.config import Gemma2Config, Gemma3Config
from dovetail_models_gemma.gguf import NAMING, NAMING_3

from dovetail.api import ConfigError
from dovetail.testing import build_model, empty_model, random_checkpoint, run_tokens

_, CARD, THIRD, *_ = dovetail_models_gemma.dovetail_register_models()

METADATA: dict[str, Any] = {
    "gemma2.vocab_size": 61,
    "gemma2.context_length": 128,
    "gemma2.embedding_length": 48,
    "gemma2.block_count": 2,
    "gemma2.feed_forward_length": 80,
    "gemma2.attention.head_count": 4,
    "gemma2.attention.head_count_kv": 2,
    "gemma2.attention.key_length": 16,
    "gemma2.attention.value_length": 16,
    "gemma2.attention.layer_norm_rms_epsilon": 1e-6,
    "gemma2.attention.sliding_window": 9,
    "gemma2.attn_logit_softcapping": 50.0,
    "gemma2.final_logit_softcapping": 30.0,
    "tied_embeddings": True,
}
TOP = ("token_embd.weight", "output_norm.weight")
LAYER = (
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "post_attention_norm.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
    "post_ffw_norm.weight",
)
"""What llama.cpp's conversion writes."""


def test_the_names_are_those_that_the_model_expects() -> None:
    names = [*TOP, *(f"blk.{layer}.{name}" for layer in range(2) for name in LAYER)]
    expected = set(random_checkpoint(CARD, NAMING.config("gemma2", METADATA)))
    assert {NAMING.rename(name) for name in names} == expected
    norms = {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm"}
    for theirs, ours in norms.items():
        assert NAMING.rename(f"blk.1.{theirs}.weight") == f"model.layers.1.{ours}.weight"
    assert NAMING.rename("blk.0.attn_sinks.weight") == "blk.0.attn_sinks.weight"


def test_config() -> None:
    config = Gemma2Config.model_validate(NAMING.config("gemma2", METADATA))
    assert (config.hidden_size, config.head_dim, config.num_key_value_heads) == (48, 16, 2)
    assert (config.window(0), config.window(1)) == (9, None)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.scale == 16**-0.5
    assert config.tie_word_embeddings
    largest = Gemma2Config.model_validate(NAMING.config("gemma2", METADATA | {"gemma2.block_count": 46}))
    assert largest.scale == 12**-0.5
    with pytest.raises(ConfigError, match=r"lacks the key gemma2\.block_count"):
        NAMING.config("gemma2", {key: value for key, value in METADATA.items() if "block_count" not in key})


def test_gemma_3() -> None:
    metadata = {key.replace("gemma2", "gemma3"): value for key, value in METADATA.items() if "softcapping" not in key}
    layer = (*LAYER, "attn_q_norm.weight", "attn_k_norm.weight")
    names = [*TOP, *(f"blk.{index}.{name}" for index in range(2) for name in layer)]
    config = NAMING_3.config("gemma3", metadata)
    assert {NAMING_3.rename(name) for name in names} == set(random_checkpoint(THIRD, config))
    read = Gemma3Config.model_validate(config | {"num_hidden_layers": 6})
    assert [read.window(index) for index in (0, 4, 5)] == [9, 9, None]
    assert [read.rope_for(index).rope_theta for index in (0, 5)] == [1e4, 1e6]
    assert (read.scale, read.attn_logit_softcapping) == (16**-0.5, None)
    assert (
        Gemma3Config.model_validate(NAMING_3.config("gemma3", metadata | {"gemma3.block_count": 62})).scale == 12**-0.5
    )


def test_norms_of_these_files_have_the_1_added() -> None:
    config = NAMING.config("gemma2", METADATA)
    stored = random_checkpoint(CARD, config)
    plain = {name: value - 1 if value.ndim == 1 else value for name, value in stored.items()}
    published = {key: value for key, value in config.items() if key != "norm_offset"}
    tokens = list(range(20))
    found = run_tokens(*build_model(CARD, config, stored), tokens)
    torch.testing.assert_close(found, run_tokens(*build_model(CARD, published, plain), tokens), rtol=0, atol=1e-4)
    _, ctx = empty_model(CARD, config)
    assert set(stored) == {f"{name}.weight" for name in ctx.layers if name != "lm_head"} | set(ctx.vectors)
