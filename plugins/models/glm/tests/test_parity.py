"""Logits against transformers, over tiny random models that between them use every branch of the configuration."""

from __future__ import annotations

from typing import Any

import dovetail_models_glm
import pytest

from dovetail.testing import check_parity

CARDS = {card.name: card for card in dovetail_models_glm.dovetail_register_models()}

BASE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
MOE: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
# As published, but for its sizes.
AIR = {
    "attention_bias": True,
    "head_dim": 24,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "use_qk_norm": False,
}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "other rotary": {"partial_rotary_factor": 0.25, "rope_theta": 500.0, "rms_norm_eps": 1e-2},
    "tied": {"tie_word_embeddings": True, "attention_bias": False, "hidden_act": "gelu"},
    "yarn": {"rope_scaling": YARN, "num_key_value_heads": 4},
}
CASES_MOE: dict[str, dict[str, Any]] = {
    "Air": AIR,
    "large": AIR | {"use_qk_norm": True, "routed_scaling_factor": 2.5},
    "groups": {"n_group": 4, "topk_group": 2, "norm_topk_prob": False, "n_shared_experts": 2},
    "yarn": {"rope_scaling": YARN, "first_k_dense_replace": 0, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", ["glm", "glm4"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(name: str, case: str) -> None:
    check_parity(CARDS[name], BASE | CASES[case])


@pytest.mark.parametrize("case", CASES_MOE)
def test_logits_of_experts_equal_those_of_transformers(case: str) -> None:
    check_parity(CARDS["glm4-moe"], BASE | MOE | CASES_MOE[case])


def test_what_files_leave_out_is_as_in_transformers() -> None:
    silent = {key: value for key, value in BASE.items() if key not in ("head_dim", "num_key_value_heads")}
    check_parity(CARDS["glm4"], silent)
    check_parity(CARDS["glm4-moe"], silent | MOE | {"num_attention_heads": 8, "hidden_size": 64})


def test_results_of_other_tasks_equal_those_of_transformers() -> None:
    for name in ("glm", "glm4"):
        check_parity(CARDS[f"{name}-embedding"], BASE)
        check_parity(CARDS[f"{name}-classifier"], {**BASE, "num_labels": 3})
    check_parity(CARDS["glm4-moe-embedding"], BASE | MOE)
