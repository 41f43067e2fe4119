"""GGUF's names and metadata of gpt-oss."""

from __future__ import annotations

from typing import Any

import dovetail_models_gpt_oss
import pytest
from dovetail_models_gpt_oss.config import GptOssConfig
from dovetail_models_gpt_oss.gguf import NAMING

from dovetail.api import ConfigError
from dovetail.testing import build_model, empty_model, random_checkpoint, store_together

CARD, *_ = dovetail_models_gpt_oss.dovetail_register_models()

METADATA: dict[str, Any] = {
    "gpt-oss.vocab_size": 61,
    "gpt-oss.context_length": 131072,
    "gpt-oss.embedding_length": 48,
    "gpt-oss.block_count": 2,
    "gpt-oss.feed_forward_length": 32,
    "gpt-oss.expert_count": 6,
    "gpt-oss.expert_used_count": 2,
    "gpt-oss.expert_feed_forward_length": 32,
    "gpt-oss.attention.head_count": 4,
    "gpt-oss.attention.head_count_kv": 2,
    "gpt-oss.attention.key_length": 16,
    "gpt-oss.attention.value_length": 16,
    "gpt-oss.attention.sliding_window": 9,
    "gpt-oss.attention.layer_norm_rms_epsilon": 1e-5,
    "gpt-oss.rope.freq_base": 150000.0,
    "gpt-oss.rope.scaling.type": "yarn",
    "gpt-oss.rope.scaling.factor": 32.0,
    "gpt-oss.rope.scaling.original_context_length": 4096,
}
TOP = ("token_embd.weight", "output_norm.weight", "output.weight")
BOTH = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
WEIGHTS = ("attn_norm", "post_attention_norm", "attn_sinks")
LAYER = (*(f"{name}.{part}" for name in BOTH for part in ("weight", "bias")), *(f"{name}.weight" for name in WEIGHTS))
"""What llama.cpp's conversion writes."""


def test_the_names_are_those_that_the_model_expects() -> None:
    config = NAMING.config("gpt-oss", METADATA)
    stored = random_checkpoint(CARD, config)
    _, ctx = empty_model(CARD, config)
    for layer in range(2):
        for part in ("gate_proj", "up_proj", "down_proj"):
            stack = f"model.layers.{layer}.mlp.experts.{part}"
            stored = store_together(ctx, stack, stored)
            stored[f"{stack}.weight"] = stored.pop(stack)
            stored[f"{stack}.bias"] = stored.pop(f"{stack}_bias")
    names = [*TOP, *(f"blk.{layer}.{part}" for layer in range(2) for part in LAYER)]
    assert {NAMING.rename(name) for name in names} == set(stored)
    assert NAMING.rename("blk.11.attn_sinks.weight") == "model.layers.11.self_attn.sinks"
    assert NAMING.rename("blk.0.exp_probs_b.bias") == "blk.0.exp_probs_b.bias"
    build_model(CARD, config, stored)


def test_config() -> None:
    config = GptOssConfig.model_validate(NAMING.config("gpt-oss", METADATA))
    assert (config.head_dim, config.num_local_experts, config.num_experts_per_tok) == (16, 6, 2)
    assert (config.intermediate_size, config.window(0), config.window(1)) == (32, 9, None)
    rope = config.rope_for(1)
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings) == ("yarn", 32.0, 4096)
    assert (rope.truncate, rope.rope_theta) == (False, 150000.0)


def test_a_file_without_scaling_has_none() -> None:
    metadata = {key: value for key, value in METADATA.items() if "scaling" not in key}
    assert GptOssConfig.model_validate(NAMING.config("gpt-oss", metadata)).rope_for(0).rope_type == "default"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gpt-oss.expert_count": None}, r"lacks the key gpt-oss\.expert_count"),
        ({"gpt-oss.expert_used_count": None}, r"lacks the key gpt-oss\.expert_used_count"),
        ({"gpt-oss.rope.dimension_count": 8}, r"rope\.dimension_count = 8, wanted the head size 16"),
        ({"gpt-oss.attention.value_length": 8}, r"attention\.value_length = 8, wanted the head size 16"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(changes: dict[str, Any], told: str) -> None:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=told):
        NAMING.config("gpt-oss", metadata)
