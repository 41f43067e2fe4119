"""The conformance kit, and what the configurations refuse."""

from __future__ import annotations

from typing import Any

import dovetail_models_deepseek
import pytest
import torch
from dovetail_models_deepseek.config import DeepseekV3Config

from dovetail.api import ConfigError
from dovetail.testing import build_model, check_model, check_registration, random_checkpoint, run_tokens

CARDS = {card.name: card for card in dovetail_models_deepseek.dovetail_register_models()}
V2, V3 = CARDS["deepseek-v2"], CARDS["deepseek-v3"]

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "max_position_embeddings": 128,
}


def test_registration() -> None:
    check_registration(dovetail_models_deepseek)


def test_every_claim() -> None:
    check_model(V2, {**TINY, "q_lora_rank": None, "attention_bias": True, "mlp_bias": True})
    check_model(V3, TINY)


@pytest.mark.parametrize("name", sorted(CARDS.keys() - {V2.name, V3.name}))
def test_every_claim_of_other_tasks(name: str) -> None:
    few = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "num_labels": 3}
    check_model(CARDS[name], TINY | few)


def test_every_second_layer_may_have_experts() -> None:
    tensors = random_checkpoint(V2, {**TINY, "num_hidden_layers": 4, "moe_layer_freq": 2})
    assert {name.split(".")[2] for name in tensors if ".experts." in name} == {"2"}


def test_layers_that_predict_further_tokens_are_left_out() -> None:
    tensors, tokens = random_checkpoint(V3, TINY), list(range(20))
    further = {"eh_proj.weight": torch.ones(48, 96), "self_attn.kv_b_proj.weight": torch.ones(88, 16)}
    more = tensors | {f"model.layers.2.{name}": value for name, value in further.items()}
    wanted, found = (run_tokens(*build_model(V3, TINY, form), tokens) for form in (tensors, more))
    assert torch.equal(found, wanted)


def test_a_token_takes_one_latent_row_of_the_cache() -> None:
    _, ctx = build_model(V3, TINY, random_checkpoint(V3, TINY))
    assert {layer.backend.block_bytes(layer.spec) for layer in ctx.attention_layers} == {8 * (16 + 8) * 4}


def test_null_is_no_rank_and_no_key_is_the_default() -> None:
    silent = {key: value for key, value in TINY.items() if key != "q_lora_rank"}
    assert DeepseekV3Config.model_validate(silent).q_lora_rank == 1536
    nulls = {"q_lora_rank": None, "norm_topk_prob": None, "rope_interleave": None}
    config = DeepseekV3Config.model_validate(silent | nulls)
    assert (config.q_lora_rank, config.norm_topk_prob, config.rope_interleave) == (0, False, False)


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("v2", {"topk_method": "noaux_tc"}, "topk_method: Input should be 'greedy' or 'group_limited_greedy'"),
        ("v2", {"scoring_func": "sigmoid"}, "scoring_func: Input should be 'softmax'"),
        ("v2", {"norm_topk_prob": True}, "norm_topk_prob: Input should be False"),
        ("v2", {"num_experts_per_tok": None}, "num_experts_per_tok: is missing"),
        ("v2", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, more than n_routed_experts, which is 8"),
        ("v2", {"rope_interleave": False}, "rope_interleave: Input should be True"),
        ("v3", {"topk_method": "greedy"}, "topk_method: Input should be 'noaux_tc'"),
        ("v3", {"scoring_func": "softmax"}, "scoring_func: Input should be 'sigmoid'"),
        ("v3", {"n_group": 8, "topk_group": 4}, "each group has one of 8 experts, wanted two or more"),
        ("v3", {"topk_group": 5}, "topk_group is 5, more than n_group, which is 4"),
        ("v3", {"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted num_attention_heads, which is 4"),
        ("v3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim: Input should be a multiple of 2"),
        ("v3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, wanted 1"),
        ("v3", {"sliding_window": 9}, "'sliding_attention', which is not supported"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(CARDS[f"deepseek-{name}"], {**TINY, **keys}, {})
