"""GGUF's names and metadata of Qwen 2 and 3 with experts."""

from __future__ import annotations

from typing import Any

import dovetail_models_qwen_moe
import pytest
import torch
from dovetail_models_qwen_moe.config import Qwen2MoeConfig, Qwen3MoeConfig
from dovetail_models_qwen_moe.gguf import QWEN2_NAMING, QWEN3_NAMING

from dovetail.api import ConfigError
from dovetail.testing import build_model, empty_model, random_checkpoint, run_tokens, store_together

CARDS = {card.name: card for card in dovetail_models_qwen_moe.dovetail_register_models()}

KEYS: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 128,
    "embedding_length": 48,
    "block_count": 2,
    "feed_forward_length": 80,
    "expert_count": 6,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1000000.0,
}
OWN = {
    "qwen2moe": {"expert_shared_feed_forward_length": 64},
    "qwen3moe": {"attention.key_length": 16, "attention.value_length": 16},
}
TOP = ("token_embd.weight", "output_norm.weight", "output.weight")
EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
WEIGHTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", *EXPERTS)
SHARED = ("ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
LAYERS = {
    "qwen2moe": (*(f"{name}.weight" for name in (*WEIGHTS, *SHARED)), "attn_q.bias", "attn_k.bias", "attn_v.bias"),
    "qwen3moe": tuple(f"{name}.weight" for name in (*WEIGHTS, "attn_q_norm", "attn_k_norm")),
}
"""What llama.cpp's conversion writes."""
NAMINGS = {"qwen2moe": QWEN2_NAMING, "qwen3moe": QWEN3_NAMING}


def metadata(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    keys = {**KEYS, **OWN[name], **(changes or {})}
    return {f"{name}.{key}": value for key, value in keys.items() if value is not None}


@pytest.mark.parametrize("name", NAMINGS)
def test_the_names_are_those_that_the_model_expects(name: str) -> None:
    naming, card = NAMINGS[name], CARDS[name.replace("moe", "-moe")]
    config = naming.config(name, metadata(name))
    stored = random_checkpoint(card, config)
    _, ctx = empty_model(card, config)
    for layer in range(2):
        for part in ("gate_proj", "up_proj", "down_proj"):
            stack = f"model.layers.{layer}.mlp.experts.{part}"
            stored = store_together(ctx, stack, stored)
            stored[f"{stack}.weight"] = stored.pop(stack)
    names = [*TOP, *(f"blk.{layer}.{part}" for layer in range(2) for part in LAYERS[name])]
    assert {naming.rename(part) for part in names} == set(stored)
    build_model(card, config, stored)
    assert naming.rename("blk.0.exp_probs_b.bias") == "blk.0.exp_probs_b.bias"
    assert naming.row_order("model.layers.0.self_attn.q_proj.weight", config) is None


def test_the_gate_of_the_shared_expert_is_stored_as_a_vector() -> None:
    card, config = CARDS["qwen2-moe"], QWEN2_NAMING.config("qwen2moe", metadata("qwen2moe"))
    stored = random_checkpoint(card, config)
    flat = {name: value.squeeze(0) for name, value in stored.items()}
    assert flat["model.layers.1.mlp.shared_expert_gate.weight"].shape == (48,)
    tokens = list(range(20))
    found = run_tokens(*build_model(card, config, flat), tokens)
    assert torch.equal(found, run_tokens(*build_model(card, config, stored), tokens))


def test_config() -> None:
    second = Qwen2MoeConfig.model_validate(QWEN2_NAMING.config("qwen2moe", metadata("qwen2moe")))
    assert (second.head_dim, second.num_experts, second.num_experts_per_tok) == (12, 6, 2)
    assert (second.moe_intermediate_size, second.shared_expert_intermediate_size) == (32, 64)
    assert (second.norm_topk_prob, second.has_experts(0), second.rope_for(0).rope_theta) == (False, True, 1e6)
    third = Qwen3MoeConfig.model_validate(QWEN3_NAMING.config("qwen3moe", metadata("qwen3moe")))
    assert (third.head_dim, third.norm_topk_prob, third.architectures) == (16, True, ("Qwen3MoeForCausalLM",))


def test_keys_of_experts_that_files_leave_out_or_have() -> None:
    old = {"expert_feed_forward_length": None, "expert_shared_feed_forward_length": None}
    config = QWEN2_NAMING.config("qwen2moe", metadata("qwen2moe", old))
    assert (config["moe_intermediate_size"], config["shared_expert_intermediate_size"]) == (40, 80)
    said = QWEN3_NAMING.config("qwen3moe", metadata("qwen3moe", {"expert_weights_norm": False}))
    assert said["norm_topk_prob"] is False


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"expert_count": None}, r"lacks the key qwen3moe\.expert_count"),
        ({"expert_used_count": None}, r"lacks the key qwen3moe\.expert_used_count"),
        ({"rope.dimension_count": 8}, r"rope\.dimension_count = 8, wanted the head size 16"),
        ({"attention.value_length": 8}, r"attention\.value_length = 8, wanted the head size 16"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        QWEN3_NAMING.config("qwen3moe", metadata("qwen3moe", keys))
