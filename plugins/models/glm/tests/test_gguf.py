"""GGUF's names and metadata of GLM-4-0414 and GLM-4.5."""

from __future__ import annotations

from typing import Any

import dovetail_models_glm
import pytest
import torch
from dovetail_models_glm.config import GlmConfig, GlmMoeConfig
from dovetail_models_glm.gguf import GLM4, GLM4MOE

from dovetail.api import ConfigError
from dovetail.nn.loading import WeightReader
from dovetail.testing import empty_model, lazy_tensors, random_checkpoint
from dovetail.testing.harness import dense_choices, store_together

CARDS = {card.name: card for card in dovetail_models_glm.dovetail_register_models()}

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 128,
    "embedding_length": 48,
    "block_count": 2,
    "feed_forward_length": 80,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 8,
    "rope.freq_base": 500.0,
}
EXPERTS: dict[str, Any] = {
    "block_count": 3,
    "nextn_predict_layers": 1,
    "expert_count": 4,
    "expert_used_count": 2,
    "expert_shared_count": 1,
    "expert_feed_forward_length": 32,
    "expert_gating_func": 2,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
    "leading_dense_block_count": 1,
}
TOP = ["token_embd.weight", "output_norm.weight", "output.weight"]
ATTENTION = ["attn_norm.weight", *(f"attn_{part}.weight" for part in ("q", "k", "v", "output"))]
MLP, STACKS = ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"], ["gate", "up", "down"]
# What llama.cpp's conversion writes of a layer.
DENSE = [*ATTENTION, "ffn_norm.weight", "ffn_up.weight", "ffn_down.weight"]
POST = ["post_attention_norm.weight", "post_ffw_norm.weight"]
MIXED = [
    "ffn_gate_inp.weight",
    "exp_probs_b.bias",
    *(f"ffn_{part}_{kind}.weight" for part in STACKS for kind in ("exps", "shexp")),
]


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    keys = SIZES | (EXPERTS if architecture == "glm4moe" else {}) | changes
    return {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}


def test_the_names_are_those_that_the_model_expects() -> None:
    expected = set(random_checkpoint(CARDS["glm4"], GLM4.config("glm4", metadata("glm4"))))
    names = [*TOP, *(f"blk.{i}.{name}" for i in range(2) for name in [*DENSE, *POST])]
    assert {GLM4.rename(name) for name in names} == expected
    assert GLM4.rename("blk.1.attn_q.bias") == "model.layers.1.self_attn.q_proj.bias"


def test_a_file_with_experts_and_layers_that_predict_further_tokens_is_read() -> None:
    card, config = CARDS["glm4-moe"], GLM4MOE.config("glm4moe", metadata("glm4moe"))
    _, ctx = empty_model(card, config)
    tensors = random_checkpoint(card, config)
    for part in STACKS:
        tensors = store_together(ctx, f"model.layers.1.mlp.experts.{part}_proj", tensors)
    stacks = {f"model.layers.1.mlp.experts.{part}_proj" for part in STACKS}
    stored = {f"{name}.weight" if name in stacks else name: value for name, value in tensors.items()}
    common = [*ATTENTION, "post_attention_norm.weight"]
    layers = {0: [*common, *MLP], 1: [*common, *MIXED]}
    names = {GLM4MOE.rename(name): name for name in TOP}
    names |= {GLM4MOE.rename(f"blk.{i}.{name}"): f"blk.{i}.{name}" for i, parts in layers.items() for name in parts}
    assert names.keys() == stored.keys()
    file = {names[name]: value for name, value in stored.items()}
    further = {"nextn.eh_proj.weight": torch.ones(48, 96), "attn_q.weight": torch.ones(64, 48)}
    file |= {f"blk.2.{name}": value for name, value in further.items()}
    WeightReader(ctx, dense_choices(), config, GLM4MOE).load(lazy_tensors(file))


def test_config() -> None:
    config = GlmConfig.model_validate(GLM4.config("glm4", metadata("glm4")))
    assert (config.head_dim, config.rotary_dim(0), config.rope_for(0).rope_theta) == (16, 8, 500.0)
    assert (config.num_key_value_heads, config.rms_norm_eps, config.attention_bias) == (2, 1e-5, "optional")
    moe = GlmMoeConfig.model_validate(GLM4MOE.config("glm4moe", metadata("glm4moe")))
    assert (moe.num_hidden_layers, moe.first_k_dense_replace, moe.use_qk_norm) == (2, 1, False)
    assert (moe.n_routed_experts, moe.num_experts_per_tok, moe.n_shared_experts) == (4, 2, 1)
    assert (moe.moe_intermediate_size, moe.routed_scaling_factor, moe.norm_topk_prob) == (32, 2.5, True)
    large = GlmMoeConfig.model_validate(GLM4MOE.config("glm4moe", metadata("glm4moe", block_count=93)))
    assert (large.num_hidden_layers, large.use_qk_norm) == (92, True)


@pytest.mark.parametrize(
    ("architecture", "changes", "told"),
    [
        ("glm4", {"nextn_predict_layers": 1}, "nextn_predict_layers = 1, wanted no layers"),
        ("glm4", {"rope.dimension_sections": 8}, "dimension_sections = 8, wanted none"),
        ("glm4moe", {"expert_gating_func": 1}, "expert_gating_func = 1, wanted 2"),
        ("glm4moe", {"expert_count": None}, r"lacks the key glm4moe\.expert_count"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(architecture: str, changes: dict[str, Any], told: str) -> None:
    naming = {"glm4": GLM4, "glm4moe": GLM4MOE}[architecture]
    with pytest.raises(ConfigError, match=told):
        naming.config(architecture, metadata(architecture, **changes))
