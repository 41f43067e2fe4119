"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import dovetail_models_deepseek
import pytest

from dovetail.testing import check_parity

V2, V2_EMBEDDING, V2_CLASSIFIER, V3, V3_EMBEDDING, V3_CLASSIFIER = dovetail_models_deepseek.dovetail_register_models()

BASE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
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
    "max_position_embeddings": 256,
}


def yarn(**changes: Any) -> dict[str, Any]:
    scaling = {"type": "yarn", "factor": 8, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}
    return {"rope_theta": 1000, "rope_scaling": scaling | changes}


LITE = {  # as published: null is no rank, and groups of which there is one
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "moe_layer_freq": 1,
    "attention_bias": False,
    **yarn(mscale=0.707, mscale_all_dim=0.707),
}
R1 = {  # as published, but for its sizes
    "attention_bias": False,
    "ep_size": 1,
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-6,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    **yarn(mscale=1.0, mscale_all_dim=1.0),
}
CASES_V2: dict[str, dict[str, Any]] = {
    "V2-Lite": LITE,
    "groups": {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0},
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "n_shared_experts": 1},
    "biases without a rank": {"attention_bias": True, "q_lora_rank": None, "rms_norm_eps": 1e-2},
    "experts everywhere": {"first_k_dense_replace": 0, "hidden_act": "gelu"},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
CASES_V3: dict[str, dict[str, Any]] = {
    "R1": R1,
    "one group": {"n_group": 1, "topk_group": 1, "q_lora_rank": None},
    "no normalisation": {"norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_shared_experts": 2},
    "halves": {"rope_interleave": False, "attention_bias": True},
    "one mscale": yarn(mscale_all_dim=0.8),
    "no mscale": yarn(),
    "attention factor": yarn(attention_factor=1.3, mscale=1.0, mscale_all_dim=0.5),
    "two mscales": yarn(mscale=1.0, mscale_all_dim=0.5),
    "no experts": {"first_k_dense_replace": 2, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("case", CASES_V2)
def test_logits_of_v2_equal_those_of_transformers(case: str) -> None:
    check_parity(V2, BASE | CASES_V2[case])


@pytest.mark.parametrize("case", CASES_V3)
def test_logits_of_v3_equal_those_of_transformers(case: str) -> None:
    check_parity(V3, BASE | CASES_V3[case])


def test_results_of_other_tasks_equal_those_of_transformers() -> None:
    for card in (V2_EMBEDDING, V3_EMBEDDING):
        check_parity(card, BASE)
    for card in (V2_CLASSIFIER, V3_CLASSIFIER):
        check_parity(card, {**BASE, "num_labels": 3, "pad_token_id": 0})
