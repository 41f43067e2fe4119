"""GGUF's names and metadata of DeepSeek-V2 and V3."""

from __future__ import annotations

from typing import Any

import dovetail_models_deepseek
import pytest
import torch
from dovetail_models_deepseek.config import DeepseekV2Config, DeepseekV3Config
from dovetail_models_deepseek.gguf import V2_NAMING, V3_NAMING

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, random_checkpoint, run_tokens

CARDS = {card.name: card for card in dovetail_models_deepseek.dovetail_register_models()}
V2, V3 = CARDS["deepseek-v2"], CARDS["deepseek-v3"]

KEYS: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 128,
    "embedding_length": 48,
    "block_count": 2,
    "feed_forward_length": 80,
    "leading_dense_block_count": 1,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.kv_lora_rank": 16,
    "rope.dimension_count": 8,
    "rope.freq_base": 500.0,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_shared_count": 2,
    "expert_feed_forward_length": 32,
    "expert_weights_scale": 1.5,
}
OLDER = KEYS | {"attention.head_count_kv": 4, "attention.key_length": 20, "attention.value_length": 10}
NEWER = KEYS | {
    "attention.head_count_kv": 1,
    "attention.key_length": 24,
    "attention.value_length": 16,
    "attention.key_length_mla": 20,
    "attention.value_length_mla": 10,
}
THIRD = {"attention.q_lora_rank": 24, "expert_gating_func": 2, "expert_weights_norm": True}
TOP = ("token_embd", "output_norm", "output")
BOTH = ("attn_norm", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_output", "ffn_norm")
DENSE = ("ffn_gate", "ffn_up", "ffn_down")
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SHARED = ("ffn_gate_inp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")


def metadata(keys: dict[str, Any]) -> dict[str, Any]:
    return {f"deepseek2.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize(
    ("version", "keys", "own"),
    [
        ("v2", OLDER, ("attn_q", "attn_kv_b")),
        ("v2", NEWER, ("attn_q", "attn_k_b", "attn_v_b")),
        ("v3", NEWER | THIRD, ("attn_q_a", "attn_q_a_norm", "attn_q_b", "attn_k_b", "attn_v_b")),
    ],
)
def test_the_names_are_those_that_the_model_expects(version: str, keys: dict[str, Any], own: tuple[str, ...]) -> None:
    naming = V2_NAMING if version == "v2" else V3_NAMING
    names = [*TOP, *(f"blk.{i}.{name}" for i in range(2) for name in (*BOTH, *own))]
    names += [*(f"blk.0.{name}" for name in DENSE), *(f"blk.1.{name}" for name in (*EXPERTS, *SHARED))]
    found = {naming.rename(f"{name}.weight") for name in names}
    if version == "v3":
        found.add(naming.rename("blk.1.exp_probs_b.bias"))
    tensors = random_checkpoint(CARDS[f"deepseek-{version}"], naming.config("deepseek2", metadata(keys)))
    expected = {name.replace(".experts.0.", ".experts.") for name in tensors if ".experts.0." in name}
    expected |= {name for name in tensors if ".experts." not in name}
    stacks = {name for name in expected if name.endswith(("k_b_proj", "v_b_proj")) and "kv" not in name}
    assert len(stacks) == 2 * 2 * ("attn_k_b" in own)
    assert found == expected - stacks | {f"{name}.weight" for name in stacks}


def test_projections_that_are_apart_give_the_same_results() -> None:
    older, newer = (V2_NAMING.config("deepseek2", metadata(keys)) for keys in (OLDER, NEWER))
    tensors = random_checkpoint(V2, older)
    wanted = run_tokens(*build_model(V2, older, tensors), list(range(20)))
    apart = dict(tensors)
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn"
        keys, values = apart.pop(f"{name}.kv_b_proj.weight").unflatten(0, (4, -1)).split((12, 10), 1)
        apart |= {f"{name}.k_b_proj.weight": keys.mT.contiguous(), f"{name}.v_b_proj.weight": values}
    found = run_tokens(*build_model(V2, newer, apart), list(range(20)))
    torch.testing.assert_close(found, wanted)


def test_every_claim_with_projections_that_are_apart() -> None:
    check_model(V3, V3_NAMING.config("deepseek2", metadata(NEWER | THIRD)))


@pytest.mark.parametrize("keys", [OLDER, NEWER])
def test_config(keys: dict[str, Any]) -> None:
    config = DeepseekV2Config.model_validate(V2_NAMING.config("deepseek2", metadata(keys)))
    assert (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim, config.kv_lora_rank) == (12, 8, 10, 16)
    assert (config.q_lora_rank, config.topk_method, config.routed_scaling_factor) == (0, "greedy", 1.5)
    assert (config.n_routed_experts, config.n_shared_experts, config.first_k_dense_replace) == (8, 2, 1)
    assert config.rope_for(0).rope_theta == 500.0


def test_experts_are_grouped_as_in_the_originals() -> None:
    second = DeepseekV2Config.model_validate(V2_NAMING.config("deepseek2", metadata(NEWER | {"expert_count": 160})))
    assert (second.topk_method, second.groups) == ("group_limited_greedy", (8, 3))
    third = DeepseekV3Config.model_validate(
        V3_NAMING.config("deepseek2", metadata(NEWER | THIRD | {"expert_count": 256}))
    )
    assert (third.groups, third.norm_topk_prob, third.q_lora_rank) == ((8, 4), True, 24)
    said = NEWER | THIRD | {"expert_group_count": 4, "expert_group_used_count": 2}
    assert DeepseekV3Config.model_validate(V3_NAMING.config("deepseek2", metadata(said))).groups == (4, 2)


def test_the_factor_on_scores_is_ten_times_what_files_have() -> None:
    scaling = {"type": "yarn", "factor": 40.0, "original_context_length": 32, "yarn_log_multiplier": 0.0707}
    keys = NEWER | {f"rope.scaling.{key}": value for key, value in scaling.items()}
    rope = DeepseekV2Config.model_validate(V2_NAMING.config("deepseek2", metadata(keys))).rope_for(0)
    assert rope.mscale == rope.mscale_all_dim == pytest.approx(0.707)
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings) == ("yarn", 40.0, 32)


def test_each_version_refuses_the_other() -> None:
    with pytest.raises(ConfigError, match=r"expert_gating_func = 2, wanted 1 for DeepseekV2ForCausalLM"):
        V2_NAMING.config("deepseek2", metadata(NEWER | THIRD))
    with pytest.raises(ConfigError, match=r"expert_gating_func = 1, wanted 2 for DeepseekV3ForCausalLM"):
        V3_NAMING.config("deepseek2", metadata(NEWER))
    with pytest.raises(ConfigError, match=r"lacks the key deepseek2\.attention\.kv_lora_rank"):
        V2_NAMING.config("deepseek2", metadata({key: value for key, value in OLDER.items() if "lora" not in key}))
